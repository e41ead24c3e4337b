"""k-means: never worse than SciPy's, exact on groups that are plain."""

import itertools

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from permfl_jax.teams import kmeans


def cost(points, centres):
    apart = points[:, None] - centres[None]
    return (apart**2).sum(axis=2).min(axis=1).sum()


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_best_of_all_ways_to_cut_few_points(seed):
    points = np.random.default_rng(seed).normal(size=(8, 3))
    best = min(
        sum(
            ((points[own] - points[own].mean(axis=0)) ** 2).sum()
            for own in (np.array(way) == 0, np.array(way) == 1)
            if own.any()
        )
        for way in itertools.product((0, 1), repeat=8)
    )
    found = kmeans.centres(np.random.default_rng(1), points, 2)
    assert cost(points, found) == pytest.approx(best, rel=1e-9)


def test_it_is_not_worse_than_scipys():
    points = np.random.default_rng(0).normal(size=(200, 5))
    ours = cost(points, kmeans.centres(np.random.default_rng(1), points, 7))
    theirs = [
        cost(points, kmeans2(points, 7, minit="++", rng=np.random.default_rng(i))[0])
        for i in range(10)
    ]
    assert ours <= np.median(theirs)


def test_devices_that_coincide_are_no_mistake():
    found = kmeans.centres(np.random.default_rng(0), np.ones((5, 2)), 3)
    assert (found == 1).all()


def test_distances_are_those_by_definition():
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(6, 4)), rng.normal(size=(3, 4))
    expected = [[((p - c) ** 2).sum() for c in centres] for p in points]
    np.testing.assert_allclose(kmeans.squares(points, centres), expected, rtol=1e-12)
    assert (kmeans.squares(points, points) >= 0).all()
