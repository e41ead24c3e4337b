"""The top of a tree against SciPy's, whatever rows are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial import distance

from permfl_jax import linkage

top_groups = jax.jit(linkage.top_groups, static_argnums=2)


def scipy_groups(points, levels):
    """`[n]`: the tree cut below its root, the side with the first row counting 0."""
    labels = np.zeros(len(points), int)
    if len(points) == 1:
        return labels
    root = hierarchy.to_tree(hierarchy.linkage(points, method="average"))

    def cut(node, below):
        if below == 0 or node.is_leaf():
            return
        sides = sorted((node.left, node.right), key=lambda side: min(side.pre_order()))
        labels[sides[1].pre_order()] += 2 ** (below - 1)
        for side in sides:
            cut(side, below - 1)

    cut(root, levels)
    return labels


def distances_of(points):
    return jnp.asarray(distance.squareform(distance.pdist(points)))


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 40])
def test_equals_scipy(size, levels):
    """Points on a line make uneven trees, with rows that are not split."""
    for seed, dim in ((0, 1), (1, 1), (2, 3), (3, 3), (4, 20)):
        points = np.random.default_rng(seed).normal(size=(size, dim))
        distances = distances_of(points) if size > 1 else jnp.zeros((1, 1))
        got = top_groups(distances, jnp.ones(size, bool), levels)
        np.testing.assert_array_equal(got, scipy_groups(points, levels))


@pytest.mark.parametrize("kept", [1, 2, 3, 6, 17])
def test_rows_that_are_not_there_are_without_influence(kept):
    """Wherever they are, and whatever they hold."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(kept, 2))
        present = rng.permutation(np.arange(kept + 4) < kept)
        for elsewhere in (0.0, 1e3, np.nan):
            distances = np.full((kept + 4, kept + 4), elsewhere)
            inner = distance.squareform(distance.pdist(points)) if kept > 1 else 0
            distances[np.ix_(present, present)] = inner
            got = np.asarray(top_groups(jnp.asarray(distances), present, 2))
            np.testing.assert_array_equal(got[present], scipy_groups(points, 2))
            assert not got[~present].any()


def test_nobody_there_and_equal_rows_come_to_an_end():
    zeros = jnp.zeros((6, 6))
    assert not np.asarray(top_groups(zeros, jnp.zeros(6, bool), 2)).any()
    groups = np.asarray(top_groups(zeros, jnp.ones(6, bool), 2))
    # Every cluster at each distance alike: still a tree, with both sides of its root.
    assert set(groups // 2) == {0, 1}


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(6)
    points = rng.normal(size=(30, 4))
    order = rng.permutation(30)
    groups, shuffled = (
        np.asarray(top_groups(distances_of(some), jnp.ones(30, bool), 2))
        for some in (points, points[order])
    )
    same = groups[order][:, None] == groups[order][None]
    np.testing.assert_array_equal(shuffled[:, None] == shuffled[None], same)
    assert len(set(groups)) == 4


def test_many_at_once_under_vmap():
    rng = np.random.default_rng(7)
    points = rng.normal(size=(3, 12, 2))
    distances = jnp.stack([distances_of(some) for some in points])
    present = jnp.ones((3, 12), bool)
    together = jax.vmap(lambda d, p: linkage.top_groups(d, p, 2))(distances, present)
    for got, some in zip(together, points, strict=True):
        np.testing.assert_array_equal(got, scipy_groups(some, 2))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-4)])
def test_distances_are_over_all_leaves_and_keep_their_digits_far_from_zero(dtype, rtol):
    """Models 1,000 from 0 and 1 apart: products about 0 leave a float32 nothing."""
    rng = np.random.default_rng(8)
    rows = {
        "weight": (1000 + rng.normal(size=(7, 4, 3))).astype(dtype),
        "bias": rng.normal(size=(7, 2)).astype(dtype),
    }
    flat = np.concatenate([x.reshape(7, -1) for x in rows.values()], axis=1)
    expected = distance.squareform(distance.pdist(flat.astype(np.float64)))
    got = linkage.distances(jax.tree.map(jnp.asarray, rows))
    assert got.dtype == dtype
    off = ~np.eye(7, dtype=bool)
    np.testing.assert_allclose(np.asarray(got)[off], expected[off], rtol=rtol)
