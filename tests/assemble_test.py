import json

import jax
import numpy as np
import pytest

from permfl_jax import assemble
from permfl_jax import federation as fed
from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions import FOLLOW_WINDOWS, PARTITIONS
from permfl_jax.teams import FORMATIONS


def rows_of(samples, d):
    span = slice(int(samples.start[d]), int(samples.start[d] + samples.count[d]))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[span], samples.pool)


def make_examples(device=None, per_class=180, num_classes=10):
    y = np.tile(np.arange(num_classes, dtype=np.int32), per_class)
    x = np.arange(len(y), dtype=np.float32)[:, None]  # x tells the row
    return Examples(x, y, num_classes, 1.0, 0.0, device)


def build(examples=None, **options):
    options = {"team_sizes": (5, 5, 5, 5), "seed": 0, **options}
    return assemble.build(examples or make_examples(), **options)


@pytest.mark.parametrize("formation", sorted(FORMATIONS))
@pytest.mark.parametrize("team_sizes", [(2, 4, 8, 26), (3, 2)])
def test_build_makes_what_was_asked(formation, team_sizes):
    examples = make_examples()
    federation, report = build(
        examples, formation=formation, team_sizes=team_sizes, seed=3
    )
    assert json.loads(json.dumps(report)) == report
    assert fed.team_sizes(federation) == team_sizes
    assert fed.num_devices(federation) == sum(team_sizes) == len(report["team"])
    order = np.asarray(federation.identity)
    assert np.asarray(report["team"])[order].tolist() == federation.team.tolist()
    parts = [federation.train, federation.validation, federation.test]
    rows = np.concatenate([part.pool["x"][:, 0] for part in parts]).astype(int)
    labels = np.concatenate([part.pool["y"] for part in parts])
    assert len(set(rows.tolist())) == len(rows) == report["samples_used"]
    np.testing.assert_array_equal(examples.y[rows], labels)
    shares = [len(part.pool["y"]) / len(rows) for part in parts]
    np.testing.assert_allclose(shares, [0.75, 0.10, 0.15], atol=0.02)
    counts = sum(fed.class_counts(part, 10) for part in parts)
    assert ((counts > 0).sum(axis=1) == 2).all()


def test_build_follows_table_2():
    federation, _ = build(team_sizes=(20, 20), formation="worst_case")
    counts = fed.class_counts(federation.train, 10)
    assert (counts[:20, 5:] == 0).all()
    assert (counts[20:, :5] == 0).all()
    assert (counts[:20, :5].sum(axis=0) > 0).all()


def test_build_of_natural_owners():
    device = np.repeat(np.arange(20, dtype=np.int32), 90)
    examples = make_examples(device)
    federation, report = build(
        examples, partition="natural", classes_per_device=99, formation="consecutive"
    )
    assert report["samples_used"] == 1800
    for d in range(20):
        assert set(device[rows_of(federation.train, d)["x"][:, 0].astype(int)]) == {d}


def test_seed_and_digest():
    (one, report), (again, same), (_, other) = (build(seed=s) for s in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert report == same
    assert len(report["sha256"]) == 64
    digests = {
        report["sha256"],
        other["sha256"],
        build(formation="consecutive")[1]["sha256"],
        build(test_fraction=0.2)[1]["sha256"],
        build(classes_per_device=3)[1]["sha256"],
    }
    assert len(digests) == 5


def test_the_seed_reaches_the_split():
    """Nothing else is drawn for natural owners in consecutive teams."""
    examples = make_examples(np.repeat(np.arange(20, dtype=np.int32), 90))
    options = {"partition": "natural", "formation": "consecutive"}
    digests = {build(examples, seed=s, **options)[1]["sha256"] for s in (0, 1)}
    assert len(digests) == 2


def test_the_digest_is_what_it_was():
    """An alarm, not an oracle: NumPy may change its streams, and results with them."""
    digest = build(team_sizes=(2, 4, 8, 26))[1]["sha256"]
    assert digest[:16] == "4bbd877eec8dfe7c"


def test_streams_are_independent():
    def by_identity(federation):
        order = np.argsort(federation.identity)
        return [rows_of(federation.train, d) for d in order]

    one, two = build(formation="random")[0], build(formation="consecutive")[0]
    jax.tree.map(np.testing.assert_array_equal, by_identity(one), by_identity(two))
    teams = [build(test_fraction=f)[1]["team"] for f in (0.1, 0.3)]
    assert teams[0] == teams[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "papre"}, r"--partition=papre .*\['natural', 'paper'\]"),
        (
            {"formation": "best"},
            r"--team_formation=best .*'average_case', 'consecutive'",
        ),
        ({"team_sizes": ()}, "--devices_per_team"),
        ({"team_sizes": (3, 0)}, r"\[3, 0\] devices.*--devices_per_team"),
        ({"classes_per_device": 11}, "--classes_per_device=11"),
        ({"test_fraction": 1.5}, "--test_fraction=1.5"),
        ({"partition": "natural"}, "--partition=natural.*no owners"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


@pytest.mark.parametrize("partition", sorted(set(PARTITIONS) - FOLLOW_WINDOWS))
@pytest.mark.parametrize("formation", ["worst_case", "average_case"])
def test_formations_that_choose_classes_need_windows(partition, formation):
    device = np.repeat(np.arange(20, dtype=np.int32), 90)
    message = f"--team_formation={formation} .*--partition={partition} does not follow"
    with pytest.raises(InputError, match=message):
        build(make_examples(device), partition=partition, formation=formation)
