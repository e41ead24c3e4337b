import heapq

import draws
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permfl_jax.errors import InputError
from permfl_jax.partitions.dealing import (
    by_owner,
    deal,
    draw_dirichlet,
    fill_up,
    fill_up_teams,
    shuffled_classes,
)


@pytest.mark.parametrize(
    "alpha", [[0.5, 0.5, 0.5], [0.05, 1.0, 3.0], [20.0, 5.0], [1.0, 0.0, 2.0], [7.0]]
)
def test_dirichlet_moments(alpha):
    alpha = np.array(alpha)
    drawn = draw_dirichlet(np.random.default_rng(0), np.tile(alpha, (20_000, 1)))
    np.testing.assert_allclose(drawn.sum(axis=1), 1, rtol=1e-12)
    assert drawn.min() >= 0
    mean, total = alpha / alpha.sum(), alpha.sum()
    draws.check_moments(drawn, mean, mean * (1 - mean) / (total + 1))
    # Parts of a whole: the covariance of the first two is -m0 m1 / (A + 1).
    if len(alpha) > 1:
        product = (drawn[:, 0] - mean[0]) * (drawn[:, 1] - mean[1])
        error = product.std() / np.sqrt(len(product))
        expected = -mean[0] * mean[1] / (total + 1)
        assert abs(product.mean() - expected) < 5 * error + 1e-12


@pytest.mark.parametrize("alpha", [1e-6, 1e-12, 1e-299])
def test_dirichlet_of_a_tiny_alpha_is_a_corner(alpha):
    drawn = draw_dirichlet(np.random.default_rng(0), np.full((4000, 4), alpha))
    assert (drawn.max(axis=1) > 0.99).all()
    corner = np.eye(4)[drawn.argmax(axis=1)]
    draws.check_moments(corner, 0.25, 0.25 * 0.75)


def test_dirichlet_of_a_huge_alpha_is_its_mean():
    drawn = draw_dirichlet(np.random.default_rng(0), np.tile([1e9, 3e9], (50, 1)))
    np.testing.assert_allclose(drawn, np.tile([0.25, 0.75], (50, 1)), atol=1e-3)


def test_by_owner():
    rows = by_owner(np.array([5, 6, 7, 8]), np.array([2, 0, 2, 0]), 4)
    assert [own.tolist() for own in rows] == [[6, 8], [], [5, 7], []]
    assert all(own.dtype == np.int64 for own in rows)


def test_by_owner_keeps_the_order():
    owner = np.random.default_rng(0).integers(0, 3, 1000)
    for number, rows in enumerate(by_owner(np.arange(1000), owner, 3)):
        np.testing.assert_array_equal(rows, np.flatnonzero(owner == number))


@pytest.mark.parametrize("num_devices", range(1, 60))
def test_equal_shares_that_come_out_even_are_even(num_devices):
    """Rounding down would lose a row where 0.3 + 0.6 is below 0.9."""
    shares = np.full((num_devices, 1), 0.3)
    dealt = deal([np.arange(3 * num_devices)], shares)
    assert [len(rows) for rows in dealt] == [3] * num_devices


def test_shuffled_classes():
    examples = draws.labels([0, 400, 3])
    rows = shuffled_classes(np.random.default_rng(0), examples.y, 3)
    assert [len(own) for own in rows] == [0, 400, 3]
    for label, own in enumerate(rows):
        assert (examples.y[own] == label).all()
    assert sorted(np.concatenate(rows)) == list(range(403))
    # In order there would be no descent; by lot half of the steps are one.
    assert 150 < (np.diff(rows[1]) < 0).sum() < 250
    some = np.array([3, 8, 11, 200])
    rows = shuffled_classes(np.random.default_rng(0), examples.y, 3, some)
    assert sorted(np.concatenate(rows)) == some.tolist()


@settings(deadline=None, max_examples=100)
@given(
    class_sizes=st.lists(st.integers(0, 50), min_size=1, max_size=5),
    num_devices=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_deal_gives_everyone_the_share_to_within_one(class_sizes, num_devices, seed):
    rng = np.random.default_rng(seed)
    shares = rng.random((num_devices, len(class_sizes)))
    shares *= rng.random(shares.shape) < 0.7
    ends = np.cumsum(class_sizes)
    class_rows = np.split(np.arange(ends[-1]), ends[:-1])
    dealt = deal(class_rows, shares)
    assert all(rows.dtype == np.int64 for rows in dealt)
    label = np.repeat(np.arange(len(class_sizes)), class_sizes)
    counts = np.stack(
        [np.bincount(label[rows], minlength=len(class_sizes)) for rows in dealt]
    )
    wanted = shares * class_sizes / np.maximum(shares.sum(axis=0), 1e-300)
    assert np.abs(counts - wanted).max() < 1 + 1e-9
    held = shares.any(axis=0)
    assert (counts.sum(axis=0) == np.where(held, class_sizes, 0)).all()
    everything = np.concatenate(dealt)
    assert len(set(everything.tolist())) == len(everything)


def one_by_one(sizes, at_least):
    """Sizes after moving single rows, each from the largest, first of equal ones."""
    sizes = list(sizes)
    target = min(at_least, sum(sizes) // len(sizes))
    heap = [(-size, d) for d, size in enumerate(sizes)]
    heapq.heapify(heap)
    for _ in range(sum(max(target - size, 0) for size in sizes)):
        size, d = heapq.heapreplace(heap, (heap[0][0] + 1, heap[0][1]))
        sizes[d] = -size - 1
    return [max(size, target) for size in sizes]


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    at_least=st.integers(1, 30),
)
def test_fill_up_is_moving_rows_one_by_one_from_the_largest(sizes, at_least):
    indices = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    rng = np.random.default_rng(0)
    if sum(sizes) < len(sizes):
        with pytest.raises(InputError, match=r"each needs at least one.*--devices_per"):
            fill_up(rng, indices, at_least)
        return
    filled, moved = fill_up(rng, indices, at_least)
    expected = one_by_one(sizes, at_least)
    assert [len(rows) for rows in filled] == expected
    assert sorted(np.concatenate(filled)) == list(range(sum(sizes)))
    kept = [len(np.intersect1d(*pair)) for pair in zip(indices, filled, strict=True)]
    assert kept == [min(pair) for pair in zip(sizes, expected, strict=True)]
    assert moved == sum(expected) - sum(kept)


def test_what_leaves_a_device_is_drawn_by_lot():
    """300 of its 400 rows leave the second: about 75 of each quarter."""
    filled, moved = fill_up(
        np.random.default_rng(0), [np.arange(0), np.arange(400), np.arange(0)], 150
    )
    assert moved == 266  # to 133 each
    quarters = np.histogram(filled[1], bins=4, range=(0, 400))[0]
    assert sum(quarters) == 134
    assert quarters.min() > 15


def test_filling_up_teams_keeps_rows_in_their_team():
    indices = np.split(np.arange(100), [0, 50, 51, 99])
    filled, moved = fill_up_teams(np.random.default_rng(0), indices, (2, 3), 20)
    assert [len(rows) for rows in filled] == [20, 30, 16, 18, 16]
    assert moved == 20 + 15 + 15
    assert set(np.concatenate(filled[:2])) == set(range(50))
    with pytest.raises(InputError, match="2 devices were to share 1 samples"):
        fill_up_teams(np.random.default_rng(0), indices[1:3] + indices[:1], (1, 2), 1)
