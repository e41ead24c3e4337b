"""Alike devices meet; the tree is that of plain average linkage."""

import numpy as np
import pytest
from label_groups import groups

from permfl_jax.teams import agreement, histograms
from permfl_jax.teams.label_linkage import label_linkage


def by_loop(points, number):
    """Average linkage by its definition."""
    clusters = [[i] for i in range(len(points))]

    def apart(a, b):
        pairs = [np.abs(points[i] - points[j]).sum() / 2 for i in a for j in b]
        return np.mean(pairs)

    while len(clusters) > number:
        pairs = [
            (apart(a, b), i, j)
            for i, a in enumerate(clusters)
            for j, b in enumerate(clusters[:i])
        ]
        _, i, j = min(pairs)
        clusters[j] += clusters.pop(i)
    own = np.zeros(len(points), int)
    for number_, members in enumerate(clusters):
        own[members] = number_
    return own


@pytest.mark.parametrize("sizes", [(10, 10, 10, 10), (2, 4, 8, 16)])
def test_true_groups_are_found(sizes):
    truth, counts = groups(0, sizes)
    team = label_linkage.assign(np.random.default_rng(1), counts, sizes)
    assert agreement.adjusted_rand(team, truth) == 1.0


def test_it_is_average_linkage_where_sizes_allow():
    _, counts = groups(3, (3, 4, 5), strength=0.5)
    expected = by_loop(histograms.shares(counts), 3)
    sizes = tuple(np.bincount(expected))
    team = label_linkage.assign(np.random.default_rng(1), counts, sizes)
    assert agreement.adjusted_rand(team, expected) == 1.0
