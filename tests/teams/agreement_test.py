"""The adjusted Rand index against its definition by pairs."""

import itertools

import numpy as np
import pytest

from permfl_jax.teams.agreement import adjusted_rand


def by_pairs(a, b):
    """Counts all pairs, and their expectation by shuffling labels exactly."""
    size = len(a)

    def agree(x, y):
        return sum(
            (x[i] == x[j]) and (y[i] == y[j])
            for i, j in itertools.combinations(range(size), 2)
        )

    shuffles = [agree(a, p) for p in itertools.permutations(b)]
    expected = sum(shuffles) / len(shuffles)
    most = (agree(a, a) + agree(b, b)) / 2
    return (agree(a, b) - expected) / (most - expected)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_its_definition_says(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 3, 6), rng.integers(0, 2, 6)
    assert adjusted_rand(a, b) == pytest.approx(by_pairs(a.tolist(), b.tolist()))


def test_names_do_not_matter_and_both_are_alike():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    assert adjusted_rand(7 - 2 * a, b) == pytest.approx(adjusted_rand(b, a))
    assert adjusted_rand(a, 7 - 2 * a) == 1.0


def test_random_teams_agree_by_nothing():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 10)
    found = [adjusted_rand(rng.permutation(truth), truth) for _ in range(2000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(2000)


@pytest.mark.parametrize("teams", [[0, 0, 0], [0, 1, 2], [0]])
def test_the_same_trivial_teams_agree(teams):
    assert adjusted_rand(np.array(teams), np.array(teams)) == 1.0
