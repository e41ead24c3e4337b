"""Which chip computes which device, and where its samples lie."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import classes_federation, mesh_of

from permfl_jax import meshes, placement
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays, from_loader
from permfl_jax.types import Placement, State

CHIPS = jax.devices()[:4]


@dataclasses.dataclass(frozen=True)
class Chip:
    """Stands for a chip of a process."""

    process_index: int
    id: int


def federation_of(team_sizes, counts=None):
    teams = np.repeat(np.arange(len(team_sizes)), team_sizes).tolist()
    return classes_federation(0, counts or [3] * len(teams), teams)[0]


def shape_for(team_sizes, chips, counts=None):
    mesh = placement.choose_mesh(federation_of(team_sizes, counts), chips)
    return None if mesh is None else (mesh.shape["team"], mesh.shape["device"])


def many(processes, each):
    return [Chip(p, p * each + i) for p in range(processes) for i in range(each)]


@pytest.mark.parametrize(
    ("team_sizes", "chips", "shape"),
    [
        ((2, 2, 2, 2), 1, None),  # one chip
        ((2, 2, 2, 2), 2, (2, 1)),
        ((2, 2, 2, 2), 4, (4, 1)),  # a team to a row, no message between rows
        ((2, 2, 2, 2), 8, (4, 2)),
        ((4, 4), 4, (2, 2)),
        ((4, 4), 5, (2, 2)),  # the fifth chip stays idle
        ((10,) * 4, 8, (4, 2)),
        ((10,) * 4, 7, (1, 5)),  # 7 and 6 do not divide 40
        ((6, 6, 6), 4, (3, 1)),
        ((8,), 4, (1, 4)),
        ((2, 4, 8, 26), 8, (1, 8)),  # no rows of equal size
        ((1, 3, 2, 2), 4, (2, 2)),  # 1 + 3 = 2 + 2, but 1, 3, 2, 2 are not equal
        ((3, 1, 4), 2, (1, 2)),
        ((7,), 4, None),  # 2, 3 and 4 do not divide 7
        ((1,), 4, None),
    ],
)
def test_the_mesh_is_the_largest_that_divides_and_rows_are_as_many_as_fit(
    team_sizes, chips, shape
):
    assert shape_for(team_sizes, many(1, chips)) == shape


@pytest.mark.parametrize(
    ("counts", "shape"),
    [
        ((5, 5, 5, 5), (4, 1)),
        ((5, 4, 4, 3), (4, 1)),  # 4 · 5 / 16 = 1.25
        ((6, 4, 4, 4), (2, 1)),  # 4 · 6 / 18 = 1.33, but 2 · 10 / 18 = 1.11
        ((9, 1, 1, 1), None),
        ((9, 1, 1, 9), (2, 1)),
    ],
)
def test_chips_stay_idle_rather_than_store_a_quarter_more(counts, shape, monkeypatch):
    few = shape_for((1, 1, 1, 1), many(1, 4), list(counts))
    assert few == (4, 1)  # a few bytes more do not matter
    monkeypatch.setattr(meshes, "_MOST_PADDING_BYTES", 0)
    assert shape_for((1, 1, 1, 1), many(1, 4), list(counts)) == shape


def test_the_chips_are_all_there_are_in_their_order():
    mesh = placement.choose_mesh(federation_of((2, 2, 2, 2)))
    assert mesh.axis_names == ("team", "device")
    assert list(mesh.devices.flat) == jax.devices()[:4]


@pytest.mark.parametrize(
    ("team_sizes", "processes", "each", "shape"),
    [
        ((2, 2, 2, 2), 2, 2, (4, 1)),
        ((4, 4), 2, 2, (2, 2)),  # a row is a process
        ((2, 2, 2), 2, 2, (1, 2)),  # 4 does not divide 6; 3 is not as many of each
        ((6,) * 6, 2, 9, (6, 3)),
        ((6,) * 12, 4, 9, (12, 3)),
    ],
)
def test_every_process_lends_as_many_chips_and_they_stand_together(
    team_sizes, processes, each, shape
):
    chips = many(processes, each)
    shuffled = [chips[i] for i in np.random.default_rng(0).permutation(len(chips))]
    mesh = placement.choose_mesh(federation_of(team_sizes), shuffled)
    assert mesh.devices.shape == shape
    owners = [chip.process_index for chip in mesh.devices.flat]
    assert owners == np.repeat(range(processes), mesh.size // processes).tolist()


def test_rows_lie_within_a_process_where_they_can():
    # Three rows of two chips would fit, but the second would be of two processes.
    mesh = placement.choose_mesh(federation_of((1, 1, 1, 1, 1, 1)), many(2, 3))
    assert mesh.devices.shape == (6, 1)
    mesh = placement.choose_mesh(federation_of((1, 3, 2, 2, 2, 2)), many(2, 3))
    assert mesh.devices.shape == (2, 3)  # 4 + 4 + 4 fits three rows, too


def test_too_few_devices_for_the_processes_are_refused():
    with pytest.raises(InputError, match="7 devices cannot be divided over 2 proc"):
        placement.choose_mesh(federation_of((7,)), many(2, 2))


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"2 x 2 chips does not divide 2 teams with 6"):
        placement.place(federation_of((3, 3)), mesh_of(2, 2))
    with pytest.raises(InputError, match=r"2 x 1 chips does not divide 2 teams with 4"):
        placement.place(federation_of((3, 1)), mesh_of(2, 1))
    other = jax.sharding.Mesh(np.asarray(CHIPS).reshape(2, 2), ("x", "y"))
    with pytest.raises(InputError, match="axes"):
        placement.place(federation_of((2, 2)), other)


def test_a_chunk_of_no_device_is_refused():
    with pytest.raises(InputError, match="--device_chunk must be at least 1, got 0"):
        placement.place(federation_of((2, 2)), device_chunk=0)


@pytest.mark.parametrize(
    ("number", "most", "divisor"),
    [(12, None, 12), (12, 5, 4), (12, 12, 12), (12, 99, 12), (7, 6, 1), (1, 1, 1)],
)
def test_chunks_are_the_largest_divisor(number, most, divisor):
    assert placement.largest_divisor(number, most) == divisor


def test_devices_at_once_follow_the_flag_then_the_cache():
    def at_once(chunk, step_bytes):
        return placement.devices_at_once(Placement(None, chunk), 12, step_bytes)

    assert [at_once(chunk, 1) for chunk in (None, 1, 5, 12, 50)] == [12, 1, 4, 12, 12]
    assert [at_once(None, 2**18 // n) for n in (12, 7, 4, 1)] == [12, 6, 4, 1]
    assert at_once(None, 2**30) == 1
    assert at_once(3, 2**30) == 3


def test_the_platform_is_that_of_the_default_device(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    nowhere = Placement(None, None)
    assert placement.platform(nowhere) == "gpu"
    for host in ("cpu", jax.local_devices(backend="cpu")[0]):
        with jax.default_device(host):
            assert placement.platform(nowhere) == "cpu"


RAGGED = [3, 1, 4, 1, 5, 2, 6, 5]
TEST = [0, 2, 0, 0, 7, 1, 0, 3]


def ragged_devices(counts):
    """Every sample is its device's number and its place there."""
    return [
        {"x": np.stack([np.full(n, d), np.arange(n)], axis=1), "y": np.arange(n)}
        for d, n in enumerate(counts)
    ]


@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (1, 4)])
def test_each_chip_holds_exactly_the_rows_of_its_devices(shape):
    """In an order of devices that is not the given one."""
    teams = [1, 0, 1, 0, 1, 0, 1, 0]
    if shape == (4, 1):
        teams = [3, 2, 1, 0, 3, 2, 1, 0]
    train, test = ragged_devices(RAGGED), ragged_devices(TEST)
    unplaced = from_arrays(train, teams, test=test)
    placed = placement.place(unplaced, mesh_of(*shape))
    for part, devices in (("train", train), ("test", test)):
        check_rows(getattr(placed, part), devices, np.asarray(placed.identity))
    assert placed.train.max_count == 6
    assert placed.validation.pool["x"].shape == (0, 2)
    np.testing.assert_array_equal(placed.team, unplaced.team)


def check_rows(samples, devices, identity):
    most = len(samples.pool["x"]) // 4
    by_chip = {
        shard.device: np.asarray(shard.data)
        for shard in samples.pool["x"].addressable_shards
    }
    held = [0] * 4
    for place, number in enumerate(identity):
        chip = place // 2
        rows = by_chip[CHIPS[chip]]
        assert len(rows) == most
        first, count = int(samples.start[place]), int(samples.count[place])
        np.testing.assert_array_equal(rows[first : first + count], devices[number]["x"])
        held[chip] += count
    assert most == max(held)
    # What fills up is nobody's: exactly the held rows lie before it, once each.
    for chip, number in enumerate(held):
        assert (by_chip[CHIPS[chip]][number:] == 0).all()


@pytest.mark.parametrize("shape", [None, (2, 2)])
def test_a_loader_gives_what_arrays_give_and_is_asked_once(shape):
    teams = ["b", "a"] * 4
    parts = {"train": ragged_devices(RAGGED), "test": ragged_devices(TEST)}
    asked = []

    def load(part, device):
        asked.append((part, device))
        return parts[part][device]

    lazy = from_loader(
        load, teams, {"train": RAGGED, "test": TEST}, ragged_devices([0])[0]
    )
    assert not asked
    mesh = None if shape is None else mesh_of(*shape)
    loaded = placement.place(lazy, mesh, 2)
    given = from_arrays(parts["train"], teams, test=parts["test"])
    given = placement.place(given, mesh, 2)
    jax.tree.map(np.testing.assert_array_equal, loaded, given)
    assert loaded.placement == given.placement
    with_test = [d for d in range(8) if TEST[d]]
    everyone = {("train", d) for d in range(8)} | {("test", d) for d in with_test}
    assert len(asked) == len(set(asked))
    assert set(asked) == everyone


def test_a_loader_must_keep_what_counts_and_like_promise():
    def lazy(counts, like=None, teams=(0, 0)):
        devices = ragged_devices([3, 2])
        return from_loader(
            lambda part, device: devices[device],
            teams,
            {"train": counts},
            like or devices[0],
        )

    with pytest.raises(InputError, match=r"have \[3, 1\] samples by `counts`, but \["):
        placement.place(lazy([3, 1]))
    wrong = {"x": np.zeros((0, 3), int), "y": np.zeros(0, int)}
    with pytest.raises(InputError, match=r"in `like` it is int64 of shape \(3,\)"):
        placement.place(lazy([3, 2], wrong))
    with pytest.raises(InputError, match="Device 1 of `train` has no sample"):
        lazy([3, 0])
    with pytest.raises(InputError, match="`counts` lists 3 devices of `train`"):
        lazy([3, 2, 1])
    with pytest.raises(InputError, match="no array in `like`"):
        from_loader(lambda part, device: {}, [0], {"train": [1]}, {})


class Extra(NamedTuple):
    device: jax.Array
    groups: jax.Array
    one: jax.Array


def test_constrain_lays_every_tier_where_it_is_computed():
    """As many groups as devices are no rows of devices."""
    mesh = mesh_of(2, 2)
    where = Placement(mesh)
    state = State(
        round=jnp.int32(0),
        cursor=jnp.zeros(8, jnp.int32),
        device=jnp.zeros((8, 3)),
        team=jnp.zeros((4, 3)),
        server=jnp.zeros(8),
        extra=Extra(jnp.zeros(8), jnp.zeros(8), jnp.zeros(())),
    )
    laid = jax.jit(lambda s: placement.constrain(s, where))(state)
    rows = jax.tree.map(
        lambda x: (
            [(s.device.id, s.index[0].start) for s in x.addressable_shards]
            if x.ndim
            else None
        ),
        laid,
    )
    by_device = [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert rows.cursor == rows.device == rows.extra.device == by_device
    assert rows.team == [(0, 0), (1, 0), (2, 2), (3, 2)]
    assert laid.server.is_fully_replicated
    assert laid.extra.groups.is_fully_replicated
    assert laid.extra.one.is_fully_replicated
    assert placement.constrain(state, Placement()) is state


def test_by_device_and_to_host_are_inverse():
    where, rows = Placement(mesh_of(2, 2)), np.arange(8)
    placed = placement.by_device(where, {"rows": rows})
    assert [len(s.data) for s in placed["rows"].addressable_shards] == [2] * 4
    np.testing.assert_array_equal(placement.to_host(placed)["rows"], rows)
    assert placement.by_device(Placement(), rows).tolist() == rows.tolist()


def test_a_federation_is_placed_once():
    federation, _ = classes_federation(0, [3, 4], [0, 1])
    placed = placement.place(federation, mesh_of(2, 1))
    with pytest.raises(InputError, match="spread over chips already"):
        placement.place(placed)
