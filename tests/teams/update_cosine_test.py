"""Devices meet by the direction of their updates, whatever their length."""

import numpy as np
import pytest

from permfl_jax.teams import agreement
from permfl_jax.teams.update_cosine import update_cosine


def devices(seed, sizes, noise=0.3):
    """Updates around a direction of each group, of lengths from 0.01 to 100."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    way = rng.normal(size=(len(sizes), 30))[truth]
    rows = way + noise * rng.normal(size=way.shape)
    return truth, rows * 10 ** rng.uniform(-2, 2, size=(len(truth), 1))


def assign(rows, sizes):
    return update_cosine.assign(np.random.default_rng(1), rows, sizes)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (2, 4, 8, 16)])
def test_true_groups_are_found_whatever_the_lengths(sizes):
    truth, rows = devices(0, sizes)
    team = assign(rows, sizes)
    assert agreement.adjusted_rand(team, truth) == 1.0
    assert (assign(rows.astype(np.float32) * 8, sizes) == team).all()


def test_opposite_updates_part():
    way = np.array([1.0, 2.0])
    team = assign(np.stack([way, -way, 3 * way, -0.1 * way]), (2, 2))
    assert team[0] == team[2] != team[1] == team[3]


def test_a_device_that_did_not_move_has_a_place():
    _, rows = devices(0, (3, 3))
    rows[2] = 0
    assert np.bincount(assign(rows, (3, 3))).tolist() == [3, 3]
