"""Devices meet by where their models end."""

import numpy as np
import pytest

from permfl_jax.teams import agreement
from permfl_jax.teams.model_distance import model_distance


@pytest.mark.parametrize("sizes", [(5, 5, 5), (2, 4, 8, 16)])
@pytest.mark.parametrize("far", [0.0, 1e6])
def test_true_groups_are_found_wherever_all_of_them_are(sizes, far):
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = rng.normal(size=(len(sizes), 30))[truth] + 0.2 * rng.normal(
        size=(len(truth), 30)
    )
    team = model_distance.assign(np.random.default_rng(1), rows + far, sizes)
    assert agreement.adjusted_rand(team, truth) == 1.0


def test_length_counts():
    """Where the cosine sees one direction, distance sees two groups."""
    length = np.array([1.0, 9.0, 1.1, 9.1])
    rows = length[:, None] * np.ones((1, 3))
    team = model_distance.assign(np.random.default_rng(1), rows, (2, 2))
    assert team[0] == team[2] != team[1] == team[3]
