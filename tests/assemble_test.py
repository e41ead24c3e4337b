import json

import jax
import numpy as np
import pytest

from permfl_jax import assemble
from permfl_jax import federation as fed
from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions import FOLLOW_WINDOWS, PARTITIONS, ownership
from permfl_jax.teams import FORMATIONS
from permfl_jax.teams.formation import Seen


def rows_of(samples, d):
    span = slice(int(samples.start[d]), int(samples.start[d] + samples.count[d]))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[span], samples.pool)


def make_examples(device=None, per_class=180, num_classes=10):
    y = np.tile(np.arange(num_classes, dtype=np.int32), per_class)
    x = np.arange(len(y), dtype=np.float32)[:, None]  # x tells the row
    return Examples(x, y, num_classes, 1.0, 0.0, device)


def look(sees, federation):
    """In place of training: how many samples of each class a device has."""
    assert federation.identity.tolist() == list(range(len(federation.identity)))
    counts = fed.class_counts(federation.train, 10)
    if sees == "losses":
        counts = counts[:, : fed.num_teams(federation)]
    return Seen(counts, 7, 8)


def build(examples=None, **options):
    options = {"team_sizes": (5, 5, 5, 5), "seed": 0, "look": look, **options}
    return assemble.build(examples or make_examples(), **options)


# Those that need true teams have none here; tests/teams has theirs.
@pytest.mark.parametrize(
    "formation", sorted(n for n, form in FORMATIONS.items() if not form.needs_truth)
)
@pytest.mark.parametrize("team_sizes", [(2, 4, 8, 26), (3, 2)])
def test_build_makes_what_was_asked(formation, team_sizes):
    examples = make_examples()
    federation, report, _ = build(
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
    federation = build(team_sizes=(20, 20), formation="worst_case").federation
    counts = fed.class_counts(federation.train, 10)
    assert (counts[:20, 5:] == 0).all()
    assert (counts[20:, :5] == 0).all()
    assert (counts[:20, :5].sum(axis=0) > 0).all()


def test_build_of_natural_owners():
    device = np.repeat(np.arange(20, dtype=np.int32), 90)
    examples = make_examples(device)
    federation, report, _ = build(
        examples, partition="natural", classes_per_device=99, formation="consecutive"
    )
    assert report["samples_used"] == 1800
    for d in range(20):
        assert set(device[rows_of(federation.train, d)["x"][:, 0].astype(int)]) == {d}


def test_seed_and_digest():
    one, again, other = (build(seed=s) for s in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one.federation, again.federation)
    assert one.report == again.report
    assert len(one.report["sha256"]) == 64
    others = [
        build(formation="consecutive"),
        build(test_fraction=0.2),
        build(classes_per_device=3),
    ]
    digests = {built.report["sha256"] for built in (one, other, *others)}
    assert len(digests) == 5


def test_the_seed_reaches_the_split():
    """Nothing else is drawn for natural owners in consecutive teams."""
    examples = make_examples(np.repeat(np.arange(20, dtype=np.int32), 90))
    options = {"partition": "natural", "formation": "consecutive"}
    digests = {build(examples, seed=s, **options).report["sha256"] for s in (0, 1)}
    assert len(digests) == 2


def test_the_digest_is_what_it_was():
    """An alarm, not an oracle: NumPy may change its streams, and results with them."""
    digest = build(team_sizes=(2, 4, 8, 26)).report["sha256"]
    assert digest[:16] == "4bbd877eec8dfe7c"


def test_streams_are_independent():
    def by_identity(federation):
        order = np.argsort(federation.identity)
        return [rows_of(federation.train, d) for d in order]

    one, two = build(formation="random"), build(formation="consecutive")
    jax.tree.map(
        np.testing.assert_array_equal,
        by_identity(one.federation),
        by_identity(two.federation),
    )
    teams = [build(test_fraction=f).report["team"] for f in (0.1, 0.3)]
    assert teams[0] == teams[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "papre"}, r"--partition=papre .*'natural', 'paper', "),
        (
            {"formation": "best"},
            r"--team_formation=best .*'average_case', 'consecutive'",
        ),
        ({"team_sizes": ()}, "--devices_per_team"),
        ({"team_sizes": (3, 0)}, r"\[3, 0\] devices.*--devices_per_team"),
        ({"classes_per_device": 11}, "--classes_per_device=11"),
        ({"test_fraction": 1.5}, "--test_fraction=1.5"),
        ({"partition": "natural"}, "--partition=natural.*no owners"),
        ({"partition": "domains"}, "--partition=domains.*no groups"),
        ({"partition": "classes", "classes_per_device": 0}, "--classes_per_device=0"),
        ({"partition": "dirichlet", "dirichlet_alpha": 0.0}, "--dirichlet_alpha=0.0"),
        ({"min_samples": -1}, "--min_samples=-1"),
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


def test_the_record_says_who_has_what():
    examples = make_examples()
    federation, report, owned = build(examples, team_sizes=(2, 4, 8, 26), seed=3)
    assert report["sha256"] == ownership.digest(owned)
    assert report["team"] == owned.team.tolist()
    order = np.asarray(federation.identity)
    for part in ("train", "validation", "test"):
        samples = getattr(federation, part)
        for place, device in enumerate(order):
            rows = rows_of(samples, place)["x"][:, 0].astype(int)
            assert rows.tolist() == getattr(owned, part)[device].tolist()


def grouped(device=None):
    return make_examples(device)._replace(group=np.arange(1800, dtype=np.int32) // 450)


@pytest.mark.parametrize(
    ("examples", "options", "partition", "formation"),
    [
        (make_examples(), {}, "paper", "random"),
        (make_examples(np.arange(1800) % 20), {}, "natural", "random"),
        (grouped(), {}, "domains", "consecutive"),
        (grouped(np.arange(1800) % 20), {}, "natural", "random"),
        (grouped(), {"partition": "dirichlet"}, "dirichlet", "random"),
        (grouped(), {"formation": "random"}, "domains", "random"),
        (
            make_examples(),
            {"partition": "two_level_dirichlet"},
            "two_level_dirichlet",
            "consecutive",
        ),
        (make_examples(), {"formation": "worst_case"}, "paper", "worst_case"),
    ],
)
def test_what_is_not_given_follows_from_the_dataset(
    examples, options, partition, formation
):
    report = build(examples, **options).report
    assert (report["partition"], report["formation"]) == (partition, formation)


def test_consecutive_teams_keep_their_domain_and_random_ones_lose_it():
    def groups_per_team(formation):
        examples = grouped()
        owned = build(examples, formation=formation).ownership
        found = []
        for team in range(4):
            rows = [owned.train[d] for d in np.flatnonzero(owned.team == team)]
            found.append(len(np.unique(examples.group[np.concatenate(rows)])))
        return found

    assert groups_per_team("consecutive") == [1, 1, 1, 1]
    assert min(groups_per_team("random")) > 1


@pytest.mark.parametrize(
    ("partition", "number", "values"),
    [
        ("paper", "classes_per_device", (2, 3)),
        ("classes", "classes_per_device", (2, 3)),
        ("dirichlet", "dirichlet_alpha", (0.1, 1.0)),
        ("dirichlet", "min_samples", (1, 60)),
        ("domains", "dirichlet_alpha", (0.1, 1.0)),
        ("domains", "min_samples", (1, 60)),
        ("quantity", "quantity_sigma", (1.0, 2.0)),
        ("quantity", "min_samples", (1, 60)),
        ("two_level_dirichlet", "team_alpha", (0.1, 1.0)),
        ("two_level_dirichlet", "device_alpha", (0.1, 1.0)),
        ("two_level_dirichlet", "min_samples", (1, 90)),
    ],
)
def test_every_number_reaches_its_partition(partition, number, values):
    digests = {
        build(grouped(), partition=partition, **{number: value}).report["sha256"]
        for value in values
    }
    assert len(digests) == 2


@pytest.mark.parametrize("formation", ["update_cosine", "loss_choice"])
def test_rules_that_compare_models_are_shown_some(formation):
    report = build(formation=formation).report
    assert (report["formation_bytes_up"], report["formation_bytes_down"]) == (7, 8)
    with pytest.raises(InputError, match=f"{formation} compares trained models"):
        build(formation=formation, look=None)


@pytest.mark.parametrize("formation", ["adversarial", "label_linkage", "update_cosine"])
def test_too_many_devices_are_refused_before_any_is_looked_at(formation):
    with pytest.raises(InputError, match="5001 devices, and 5,000 at most"):
        build(
            make_examples(per_class=1000),
            formation=formation,
            team_sizes=(5000, 1),
            look=None,
        )
    FORMATIONS[formation].check((5001,))  # one team: nobody is compared


@pytest.mark.parametrize("formation", ["update_cosine", "loss_choice"])
def test_teams_that_were_found_by_training_are_not_looked_for_again(formation):
    before = build(formation=formation)

    def nobody(sees, federation):
        raise AssertionError

    again = build(formation=formation, look=nobody, known=before.report)
    assert again.report == before.report
    for damage in [{"team": [0] * 20}, {"team": 7}, {"formation_bytes_up": "7"}]:
        with pytest.raises(InputError, match="were recorded are damaged"):
            build(formation=formation, known=before.report | damage)


def test_teams_by_labels_are_found_anew():
    """They cost nothing, and what was recorded may be wrong."""
    before = build(formation="label_kmeans")
    damaged = before.report | {"team": [0] * 20}
    assert build(formation="label_kmeans", known=damaged).report == before.report


def test_rules_by_labels_see_training_samples_alone():
    before = build(formation="label_kmeans")
    counts = fed.class_counts(before.federation.train, 10)
    order = np.asarray(before.federation.identity)
    rows = np.empty_like(counts)
    rows[order] = counts
    rng = np.random.default_rng([0, 2])
    team = FORMATIONS["label_kmeans"].assign(rng, rows, (5, 5, 5, 5))
    assert team.tolist() == before.report["team"]
    assert before.report["formation_bytes_up"] == 4 * 20 * 10
