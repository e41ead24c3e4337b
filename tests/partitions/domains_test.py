import draws
import numpy as np
import pytest

from permfl_jax.errors import InputError

GROUPS = np.repeat([7, 2, 9, 4], [400, 500, 600, 700])  # their order is 2, 4, 7, 9


def grouped(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, len(GROUPS)).astype(np.int32)
    return draws.Labels(y, 5, group=rng.permutation(GROUPS).astype(np.int32))


def groups_of(examples, indices):
    return set(examples.group[np.concatenate(indices)].tolist())


def test_a_team_holds_its_group():
    examples = grouped()
    partition = draws.run("domains", examples, (3, 1, 4, 2))
    draws.check(partition, examples, 10)
    assert partition.report["groups"] == 4
    found = np.split(np.arange(10), [3, 4, 8])
    for team, group in zip(found, (2, 4, 7, 9), strict=True):
        rows = [partition.indices[d] for d in team]
        assert groups_of(examples, rows) == {group}


@pytest.mark.parametrize(
    ("team_sizes", "expected"),
    [((5, 3), [{2, 4}, {7, 9}]), ((6,), [{2, 4, 7, 9}])],
)
def test_neighbouring_groups_share_a_team(team_sizes, expected):
    examples = grouped()
    partition = draws.run("domains", examples, team_sizes)
    draws.check(partition, examples, sum(team_sizes))
    first, rest = partition.indices[: team_sizes[0]], partition.indices[team_sizes[0] :]
    assert groups_of(examples, first) == expected[0]
    if rest:
        assert groups_of(examples, rest) == expected[1]


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_shares_within_a_team_have_the_moments_of_the_law(alpha):
    """Of the team's examples of a class, one of 4 devices: 1/4, 3 / (16 (4 α + 1))."""
    y = np.tile(np.arange(2, dtype=np.int32), 10_000)
    group = np.repeat(np.arange(2, dtype=np.int32), 10_000)
    examples = draws.Labels(y, 2, group=group)
    shares = np.stack(
        [
            draws.class_counts(
                draws.run("domains", examples, (3, 4), s, dirichlet_alpha=alpha),
                examples,
            )[5]
            for s in range(1000)
        ]
    )
    # 5,000 of each class in a team; filling up moves at most 10 of them.
    assert np.abs(shares.mean(axis=0) / 5000 - 0.25).max() < 0.05
    squares = (shares / 5000 - 0.25) ** 2
    expected = 3 / (16 * (4 * alpha + 1))
    error = squares.std(axis=0) / np.sqrt(1000)
    assert (np.abs(squares.mean(axis=0) - expected) < 5 * error).all()


def test_filling_up_stays_in_the_team():
    examples = grouped()
    partition = draws.run(
        "domains", examples, (20, 20, 20, 20), dirichlet_alpha=0.01, min_samples=15
    )
    draws.check(partition, examples, 80)
    assert partition.report["samples_moved"] > 0
    assert partition.report["samples_min"] == 15
    for d, rows in enumerate(partition.indices):
        assert groups_of(examples, [rows]) == {(2, 4, 7, 9)[d // 20]}


@pytest.mark.parametrize("num_teams", [3, 8])
def test_teams_that_do_not_divide_the_groups_are_refused(num_teams):
    message = rf"--num_teams={num_teams} .*the 4 groups .*\[1, 2, 4\]"
    with pytest.raises(InputError, match=message):
        draws.run("domains", grouped(), (2,) * num_teams)


def test_a_dataset_without_groups_is_refused():
    with pytest.raises(InputError, match=r"--partition=domains.*no groups"):
        draws.run("domains", draws.labels([50, 50]), (2,))
