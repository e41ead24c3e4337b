import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import mesh_of
from hypothesis import given, settings
from hypothesis import strategies as st

from permfl_jax import federation as fed
from permfl_jax import placement
from permfl_jax.errors import InputError


def make_device(count, mark=0.0):
    x = (
        np.full((count, 2), mark, np.float32)
        + np.arange(count, dtype=np.float32)[:, None]
    )
    return {"x": x, "y": np.arange(count, dtype=np.int32) % 3}


def make_devices(*counts):
    return [make_device(count, 100.0 * d) for d, count in enumerate(counts)]


def rows_of(samples, d):
    span = slice(int(samples.start[d]), int(samples.start[d] + samples.count[d]))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[span], samples.pool)


def check(federation, parts, teams):
    """The federation holds what was given, device by device."""
    order = np.asarray(federation.identity)
    assert federation.identity.dtype == jnp.uint32
    assert sorted(order.tolist()) == list(range(len(teams)))
    names = sorted(set(teams))
    team = np.asarray(federation.team)
    assert federation.team.dtype == jnp.int32
    assert [names[t] for t in team] == [teams[d] for d in order]
    # Team-major, and stable inside a team.
    assert list(zip(team, order, strict=True)) == sorted(zip(team, order, strict=True))
    for name, devices in parts.items():
        samples = getattr(federation, name)
        assert samples.start.dtype == samples.count.dtype == jnp.int32
        assert samples.max_count == max(len(device["y"]) for device in devices)
        total = sum(len(device["y"]) for device in devices)
        assert all(len(leaf) == total for leaf in jax.tree.leaves(samples.pool))
        for place, device in enumerate(order):
            jax.tree.map(
                np.testing.assert_array_equal, rows_of(samples, place), devices[device]
            )


def test_a_small_federation_by_hand():
    train = make_devices(3, 1, 2)
    federation = fed.from_arrays(train, ["west", "east", "west"])
    assert federation.identity.tolist() == [1, 0, 2]
    assert federation.team.tolist() == [0, 1, 1]
    assert federation.train.start.tolist() == [0, 1, 4]
    assert federation.train.count.tolist() == [1, 3, 2]
    assert federation.train.max_count == 3
    assert federation.train.pool["x"][:, 0].tolist() == [100, 0, 1, 2, 200, 201]
    assert fed.team_sizes(federation) == (1, 2)
    assert fed.num_teams(federation) == 2
    assert fed.num_devices(federation) == 3
    assert fed.class_counts(federation.train, 4).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 0],
    ]


def test_missing_parts_are_empty_and_alike():
    federation = fed.from_arrays(make_devices(3, 1), [0, 1])
    for samples in (federation.validation, federation.test):
        assert samples.pool["x"].shape == (0, 2)
        assert samples.pool["x"].dtype == jnp.float32
        assert samples.pool["y"].shape == (0,)
        assert samples.pool["y"].dtype == jnp.int32
        assert samples.start.tolist() == samples.count.tolist() == [0, 0]
        assert samples.max_count == 0
        assert fed.class_counts(samples, 3).tolist() == [[0] * 3] * 2


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_everything_arrives(data):
    count = data.draw(st.integers(1, 8))
    lists = {
        name: st.lists(st.integers(least, 5), min_size=count, max_size=count)
        for name, least in (("train", 1), ("validation", 0), ("test", 0))
    }
    label = data.draw(st.sampled_from([st.integers(-3, 3), st.text(max_size=2)]))
    teams = data.draw(st.lists(label, min_size=count, max_size=count))
    parts = {name: make_devices(*data.draw(counts)) for name, counts in lists.items()}
    train = parts["train"]
    others = {name: parts[name] for name in ("validation", "test")}
    check(fed.from_arrays(train, teams, **others), parts, teams)


@pytest.mark.parametrize(
    "teams",
    [np.array([5, 1]), jnp.array([5, 1]), np.array(["b", "a"]), (5, np.int8(1))],
)
def test_labels_of_many_kinds(teams):
    federation = fed.from_arrays(make_devices(1, 2), teams)
    assert federation.identity.tolist() == [1, 0]


def test_labels_that_numpy_would_confuse():
    federation = fed.from_arrays(make_devices(1, 1, 1), ["a\0", "a", "a\0"])
    assert federation.identity.tolist() == [1, 0, 2]
    assert fed.team_sizes(federation) == (1, 2)


def test_labels_sort_as_numbers():
    federation = fed.from_arrays(make_devices(1, 1, 1), [10, 9, -1])
    assert federation.identity.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("given_dtype", "stored"),
    [
        (np.float64, jnp.float32),
        (np.float16, jnp.float16),
        (jnp.bfloat16, jnp.bfloat16),
        (np.uint8, jnp.uint8),
        (np.int64, jnp.int32),
        (bool, jnp.bool_),
    ],
)
def test_dtypes(given_dtype, stored):
    devices = [np.ones((n, 3)).astype(given_dtype) for n in (2, 1)]
    with jax.enable_x64(False):
        federation = fed.from_arrays(devices, [0, 0], test=devices)
    for samples in (federation.train, federation.validation, federation.test):
        assert samples.pool.dtype == stored


def test_x64_keeps_64_bits():
    with jax.enable_x64(True):
        federation = fed.from_arrays([np.array([0.1])], [0])
        assert federation.train.pool.dtype == jnp.float64
        assert float(federation.train.pool[0]) == 0.1


def test_any_pytree_will_do():
    device = (np.zeros((2, 3), np.float32), [np.ones(2, np.float32), None])
    federation = fed.from_arrays([device, device], ["a", "a"])
    assert jax.tree.structure(federation.train.pool) == jax.tree.structure(device)


def test_what_was_given_is_not_held():
    device = make_device(4)
    federation = fed.from_arrays([device], [0])
    device["x"][:] = -1.0
    assert (federation.train.pool["x"] >= 0).all()


def test_memory_follows_the_samples():
    """Sizes of a lognormal(2): padding to the largest would take many times more."""
    rng = np.random.default_rng(0)
    counts = np.floor(rng.lognormal(3.0, 2.0, 300)).astype(int) + 1
    train = make_devices(*counts)
    raw = sum(leaf.nbytes for leaf in jax.tree.leaves(train))
    padded = raw / counts.sum() * counts.max() * len(counts)
    samples = fed.from_arrays(train, rng.integers(0, 7, 300)).train
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(samples))
    assert held == raw + 8 * len(counts)
    assert held <= 1.25 * raw
    assert padded > 10 * raw


def bad(change, count=3):
    devices = make_devices(*[2] * count)
    change(devices)
    return devices


def set_leaf(device, name, leaf):
    return lambda devices: devices[device].__setitem__(name, leaf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.clear(), "`train` lists no device"),
        (
            lambda d: d.__setitem__(1, make_device(0)),
            "Device 1 of `train` has no sample",
        ),
        (
            set_leaf(2, "y", np.zeros(5, np.int32)),
            r"Leaf \['y'\] of device 2 of `train` has 5 samples, but leaf .* 2",
        ),
        (
            set_leaf(1, "z", np.zeros(2, np.float32)),
            "structure of device 1 of `train`",
        ),
        (
            lambda d: d[0].__setitem__("x", np.zeros((2, 9), np.float32)),
            r"leaf \['x'\] of device 1 of `train` is float32 of shape \(2,\), but .*"
            r"\(9,\)",
        ),
        (
            set_leaf(1, "x", np.zeros((2, 2), np.float64)),
            r"leaf \['x'\] of device 1 of `train` is float64 .* float32",
        ),
        (
            set_leaf(1, "x", np.array([[0, 1], [np.nan, 1]], np.float32)),
            r"Leaf \['x'\] of device 1 of `train` holds a NaN or an infinity",
        ),
        (
            set_leaf(2, "x", np.array([[0, 1], [-np.inf, 1]], np.float32)),
            r"Leaf \['x'\] of device 2 of `train` holds a NaN or an infinity",
        ),
        (
            set_leaf(0, "y", 3),
            r"Leaf \['y'\] of device 0 of `train` is a single value",
        ),
        (
            set_leaf(0, "y", np.array(["a", "b"])),
            r"Leaf \['y'\] of device 0 of `train` has dtype <U1",
        ),
        (lambda d: d.__setitem__(0, {}), "no array in device 0 of `train`"),
    ],
)
def test_bad_train_is_refused(change, message):
    devices = bad(change)
    with pytest.raises(InputError, match=message):
        fed.from_arrays(devices, ["b", "c", "a"][: len(devices)])


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop(), "lists 2 devices, but `train` lists 3"),
        (
            set_leaf(1, "x", np.array([[0, 1], [np.nan, 1]], np.float32)),
            r"Leaf \['x'\] of device 1 of `{}` holds a NaN",
        ),
        (
            set_leaf(0, "x", np.zeros((2, 2), np.float16)),
            r"leaf \['x'\] of device 0 of `{}` is float16",
        ),
    ],
)
def test_bad_validation_and_test_are_refused(part, change, message):
    with pytest.raises(InputError, match=message.format(part)):
        fed.from_arrays(make_devices(1, 2, 3), [0, 0, 1], **{part: bad(change)})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([0.0, 1e300]), "device 1 .* infinity as float32"),
        (np.array([0, 2**40]), "device 1 .* do not fit int32"),
    ],
)
def test_numbers_that_do_not_fit_32_bits_are_refused(value, message):
    with jax.enable_x64(False), pytest.raises(InputError, match=message):
        fed.from_arrays([np.zeros_like(value), value], [1, 0])


@pytest.mark.parametrize(
    ("teams", "message"),
    [
        ([0, 1], "`teams` lists 2 labels, but `train` lists 3 devices"),
        ([0, "a", 1], "`teams` mixes kinds"),
        ([0.5, 1.0, 2.0], "`teams` mixes kinds"),
        (np.zeros((3, 1), int), "`teams` mixes kinds"),
    ],
)
def test_bad_teams_are_refused(teams, message):
    with pytest.raises(InputError, match=message):
        fed.from_arrays(make_devices(1, 2, 3), teams)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1], "run from -1 to 0, but must be 0 to 2"),
        ([0, 3], "run from 0 to 3, but must be 0 to 2"),
        ([0.0, 1.0], "are float"),
        ([False, True], "are bool"),
    ],
)
def test_labels_are_checked_when_their_number_is_known(labels, message):
    good = {"x": np.zeros((2, 2), np.float32), "y": np.array([0, 2])}
    bad = good | {"y": np.array(labels)}
    with pytest.raises(InputError, match=message):
        fed.from_arrays([bad], [0], num_classes=3)
    if np.array(labels).dtype == good["y"].dtype:
        with pytest.raises(InputError, match="`test` run"):
            fed.from_arrays([good], [0], test=[bad], num_classes=3)
    assert fed.num_devices(fed.from_arrays([good], [0], num_classes=3)) == 1


def labelled(sizes):
    """Every sample of device d is d, and its place there."""
    return [
        {"x": np.stack([np.full(n, d), np.arange(n)], 1).astype(np.float32)}
        for d, n in enumerate(sizes)
    ]


def rows_of_each(samples):
    pool = np.asarray(samples.pool["x"])
    spans = zip(samples.start.tolist(), samples.count.tolist(), strict=True)
    return [pool[start : start + count].tolist() for start, count in spans]


@pytest.mark.parametrize("teams", [[1], [2, 0], [0, 1, 2], [1, 2, 0]])
def test_teams_that_are_taken_out_keep_their_devices(teams):
    train, test = [3, 1, 4, 1, 5, 2], [0, 2, 1, 1, 0, 3]
    team = [1, 0, 2, 1, 0, 1]
    whole = fed.from_arrays(labelled(train), team, test=labelled(test))
    some = fed.of_teams(whole, teams)
    expected = [d for t in teams for d in range(6) if team[d] == t]
    assert some.identity.tolist() == expected
    assert fed.team_sizes(some) == tuple(team.count(t) for t in teams)
    devices = labelled(train), labelled(test)
    for samples, own in zip((some.train, some.test), devices, strict=True):
        assert rows_of_each(samples) == [own[d]["x"].tolist() for d in expected]
        assert samples.pool is (whole.train if own is devices[0] else whole.test).pool


@pytest.mark.parametrize("teams", [[], [3], [-1], [0, 0]])
def test_teams_that_are_not_there_are_refused(teams):
    whole = fed.from_arrays(labelled([2, 2, 2]), [0, 1, 2])
    with pytest.raises(InputError, match=r"each from 0 to 2 and once"):
        fed.of_teams(whole, teams)


def test_teams_that_are_taken_out_can_be_spread_over_chips():
    """Their rows are not one after another any more."""
    whole = fed.from_arrays(labelled([3, 1, 4, 2]), [0, 1, 2, 3])
    some = fed.of_teams(whole, [3, 0])
    spread = placement.place(some, mesh_of(2, 1))
    rows = [
        np.asarray(shard.data)[:count].tolist()
        for shard, count in zip(
            spread.train.pool["x"].addressable_shards, [2, 3], strict=True
        )
    ]
    assert rows == rows_of_each(some.train)
    with pytest.raises(InputError, match="on one chip"):
        fed.of_teams(spread, [0])
