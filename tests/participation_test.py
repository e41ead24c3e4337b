"""Who acts: sets of the right size, drawn from the right people, all equally likely.

Keys are fixed, so every statistic here is one number. Fair draws would fail one of
these checks with the probability `P` stated for it.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from permfl_jax import keys, tree
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.participation import Sampler

P = 1e-3
RAGGED = (2, 4, 8, 26)
KEY = jax.random.key(7)


def federation_of(sizes):
    team = np.repeat(np.arange(len(sizes)), sizes)
    return from_arrays([{"x": np.zeros((1, 1), np.float32)}] * len(team), team.tolist())


@functools.lru_cache
def compiled(sampler):
    """Draws for pairs (t, k), one after another: a loop compiles faster than `vmap`."""
    federation = federation_of(sampler.team_sizes)

    @jax.jit
    def run(key, pairs):
        def one(pair):
            draw_key = keys.participation_key(key, pair[0])
            teams = sampler.draw_teams(draw_key)
            return teams, sampler.draw_devices(draw_key, pair[1], teams, federation)

        return jax.lax.map(one, pairs)

    return run


def draws(sampler, rounds, team_rounds=1, key=KEY):
    """Teams `[T, m]` or `None`, and cohorts `[T, K, A]`, of many rounds."""
    grid = np.indices((rounds, team_rounds), np.int32).reshape(2, -1).T
    drawn = jax.tree.map(
        lambda x: np.asarray(x).reshape(rounds, team_rounds, -1),
        compiled(sampler)(key, jnp.asarray(grid)),
    )
    teams, cohorts = drawn
    if teams is not None:
        np.testing.assert_array_equal(teams, teams[:, :1].repeat(team_rounds, axis=1))
        teams = teams[:, 0]
    return teams, cohorts


def team_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"teams_per_round": 0},
            "--teams_per_round must be 1 to 4 (teams), got 0.",
        ),
        (
            {"teams_per_round": 5},
            "--teams_per_round must be 1 to 4 (teams), got 5.",
        ),
        (
            {"devices_per_round": 0},
            "--devices_per_round must be 1 to 26 (devices in a team), got 0.",
        ),
        (
            {"devices_per_round": 27},
            "--devices_per_round must be 1 to 26 (devices in a team), got 27.",
        ),
        (
            {"devices_per_round": -1},
            "--devices_per_round must be 1 to 26 (devices in a team), got -1.",
        ),
    ],
)
def test_counts_outside_of_the_federation_are_refused(options, sentence):
    with pytest.raises(InputError) as caught:
        Sampler(RAGGED, **options)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"teams_per_round": 4},
        {"devices_per_round": 26},
        {"teams_per_round": 4, "devices_per_round": 26},
    ],
)
def test_everyone_acts_without_a_gather(options):
    sampler, federation = Sampler(RAGGED, **options), federation_of(RAGGED)
    assert sampler.full
    assert sampler.places == sum(RAGGED)
    teams = sampler.draw_teams(KEY)
    cohort = sampler.draw_devices(KEY, jnp.int32(0), teams, federation)
    assert teams is None
    assert cohort.device is None
    assert cohort.present is None
    np.testing.assert_array_equal(cohort.slot, team_of(RAGGED))
    np.testing.assert_array_equal(cohort.weights(jnp.arange(40.0)), np.arange(40.0))
    assert cohort.mean(jnp.arange(40.0)) == 19.5


PARTIAL = [
    ((5, 5, 5), 2, 3),
    ((5, 5, 5), None, 1),
    ((5, 5, 5), 1, None),
    (RAGGED, 2, 3),
    (RAGGED, 2, None),
    (RAGGED, None, 5),
    (RAGGED, None, 25),
    (RAGGED, 1, 1),
    (RAGGED, 3, 8),
]


@pytest.mark.parametrize(("sizes", "teams_per_round", "devices_per_round"), PARTIAL)
def test_every_cohort_has_the_right_people(sizes, teams_per_round, devices_per_round):
    sampler = Sampler(sizes, teams_per_round, devices_per_round)
    assert not sampler.full
    rounds, team_rounds = 150, 3
    teams, cohorts = draws(sampler, rounds, team_rounds)
    team, most = team_of(sizes), 0
    for t, k in itertools.product(range(rounds), range(team_rounds)):
        acting = list(range(len(sizes))) if teams is None else teams[t].tolist()
        assert len(set(acting)) == (teams_per_round or len(sizes))
        assert acting == sorted(acting)
        present = cohorts.present[t, k]
        device = cohorts.device[t, k]
        who = device[present]
        assert len(set(who.tolist())) == len(who)
        assert who.tolist() == sorted(who.tolist())
        # The slot says which of the acting teams each of them belongs to.
        np.testing.assert_array_equal(
            np.array(acting)[cohorts.slot[t, k][present]], team[who]
        )
        members = np.bincount(team[who], minlength=len(sizes))
        for i, size in enumerate(sizes):
            quota = min(size, devices_per_round or size)
            assert members[i] == (quota if i in acting else 0)
        # An unused place is nobody, in a slot that exists.
        assert set(device[~present].tolist()) <= {sum(sizes)}
        assert cohorts.slot[t, k].max() < len(acting)
        most = max(most, len(who))
    assert cohorts.device.shape[-1] == sampler.places
    assert most == sampler.places  # the bound is reached, so it is tight


def test_equal_teams_leave_no_place_unused():
    _, cohorts = draws(Sampler((5, 5, 5), 2, 3), 150, 3)
    assert cohorts.present.all()


def test_unused_places_weigh_nothing_and_are_never_written():
    rows = jnp.arange(40.0)
    _, cohorts = draws(Sampler(RAGGED, 1, 5), 12)
    smallest = 5
    for t in range(12):
        cohort = jax.tree.map(lambda x, t=t: jnp.asarray(x[t, 0]), cohorts)
        present = np.asarray(cohort.present)
        who = np.asarray(cohort.device)[present]
        smallest = min(smallest, len(who))
        np.testing.assert_array_equal(
            cohort.weights(1 + rows),
            np.where(present, 1 + np.asarray(cohort.device), 0),
        )
        values = jnp.where(cohort.present, 3.0, 1e9)
        assert cohort.mean(values) == 3
        written = np.asarray(tree.put(rows, cohort.device, jnp.full(5, -1.0)))
        assert set(np.flatnonzero(written == -1)) == set(who.tolist())
        np.testing.assert_array_equal(np.delete(written, who), np.delete(rows, who))
    assert smallest == 2


def subset_chi_square(rows, population, size):
    """Probability of subsets at least this uneven if all are equally likely."""
    codes = {s: i for i, s in enumerate(itertools.combinations(population, size))}
    counts = np.bincount([codes[tuple(row)] for row in rows], minlength=len(codes))
    return stats.chisquare(counts).pvalue


@pytest.mark.parametrize(("num_teams", "acting"), [(4, 2), (5, 1), (5, 4), (6, 3)])
def test_every_set_of_teams_is_equally_likely(num_teams, acting):
    teams, _ = draws(Sampler((1,) * num_teams, acting), 4000)
    assert subset_chi_square(teams.tolist(), range(num_teams), acting) > P


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_set_of_devices_of_a_team_is_equally_likely(number):
    _, cohorts = draws(Sampler((4, 5), None, number), 4000)
    who = cohorts.device[:, 0]
    first, second = who[:, :number], who[:, number:]
    assert subset_chi_square(first.tolist(), range(4), number) > P
    assert subset_chi_square(second.tolist(), range(4, 9), number) > P


def test_devices_of_ragged_teams_act_equally_often():
    rounds, number = 4000, 3
    _, cohorts = draws(Sampler(RAGGED, None, number), rounds)
    counts = np.bincount(cohorts.device[cohorts.present], minlength=sum(RAGGED))
    for i, size in enumerate(RAGGED):
        mine = counts[team_of(RAGGED) == i]
        assert mine.sum() == rounds * min(size, number)
        if size <= number:
            np.testing.assert_array_equal(mine, rounds)
            continue
        # Without replacement the counts vary less, by (N - n) / (N - 1).
        expected = rounds * number / size
        statistic = ((mine - expected) ** 2 / expected).sum()
        statistic *= (size - 1) / (size - number)
        assert stats.chi2.sf(statistic, size - 1) > P


def independent(left, right):
    """Probability of a table this uneven if all four cells are equally likely."""
    table = np.zeros((2, 2))
    np.add.at(table, (left, right), 1)
    return stats.chisquare(table.ravel()).pvalue


def test_teams_rounds_and_team_rounds_draw_independently():
    # One of two devices acts, in each of two teams: four combinations in each pair.
    _, cohorts = draws(Sampler((2, 2), None, 1), 4000, 2)
    picks = cohorts.device - np.array([0, 2])  # [T, K, team]
    assert set(np.unique(picks)) == {0, 1}
    assert independent(picks[:, 0, 0], picks[:, 0, 1]) > P  # two teams
    assert independent(picks[:, 0, 0], picks[:, 1, 0]) > P  # two team rounds
    assert independent(picks[:, 0, 0], picks[:, 1, 1]) > P  # (i, k) and (j, l)
    assert independent(picks[:-1, 0, 0], picks[1:, 0, 0]) > P  # two rounds
    # k of one round is not t of another.
    assert independent(picks[:-1, 1, 0], picks[1:, 0, 0]) > P


def test_sets_of_teams_of_consecutive_rounds_are_independent():
    teams, _ = draws(Sampler((1, 1), 1), 4000)
    assert independent(teams[:-1, 0], teams[1:, 0]) > P


def test_draws_hang_on_the_seed_alone():
    sampler = Sampler(RAGGED, 2, 3)
    first, again = draws(sampler, 20), draws(sampler, 20)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = draws(sampler, 20, key=jax.random.key(8))
    assert not np.array_equal(first[1].device, other[1].device)


def test_a_team_draws_the_same_devices_whoever_else_acts():
    """Acting teams are told apart by number, not by their place among those drawn."""
    _, all_act = draws(Sampler(RAGGED, None, 3), 20)
    teams, some_act = draws(Sampler(RAGGED, 2, 3), 20)
    team = team_of(RAGGED)
    for t in range(20):
        everyone = all_act.device[t, 0][all_act.present[t, 0]]
        some = some_act.device[t, 0][some_act.present[t, 0]]
        expected = everyone[np.isin(team[everyone], teams[t])]
        np.testing.assert_array_equal(some, expected)


def test_a_sampler_for_another_federation_is_refused():
    federation = federation_of((4, 2))
    key = keys.participation_key(jax.random.key(0), 0)
    with pytest.raises(InputError, match=r"made for 3 devices, but .* has 6"):
        Sampler((2, 1), None, 1).draw_devices(key, 0, None, federation)
    assert Sampler.of(federation, None, 2) == Sampler((4, 2), None, 2)
