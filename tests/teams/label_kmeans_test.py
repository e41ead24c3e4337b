"""Alike devices meet, whatever their order and size."""

import numpy as np
import pytest
from label_groups import groups

from permfl_jax.teams import agreement
from permfl_jax.teams.label_kmeans import label_kmeans


@pytest.mark.parametrize("sizes", [(10, 10, 10, 10), (2, 4, 8, 16)])
def test_true_groups_are_found(sizes):
    truth, counts = groups(0, sizes)
    team = label_kmeans.assign(np.random.default_rng(1), counts, sizes)
    assert agreement.adjusted_rand(team, truth) == 1.0
    assert np.bincount(team).tolist() == list(sizes)


def test_how_much_a_device_holds_does_not_matter():
    truth, counts = groups(0, (5, 5))
    counts[::2] *= 1000
    team = label_kmeans.assign(np.random.default_rng(1), counts, (5, 5))
    assert agreement.adjusted_rand(team, truth) == 1.0


def test_devices_without_samples_fill_up():
    _, counts = groups(0, (5, 5))
    counts[3] = 0
    team = label_kmeans.assign(np.random.default_rng(1), counts, (5, 5))
    assert np.bincount(team).tolist() == [5, 5]
