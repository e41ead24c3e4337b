"""Orders drawn on the spot are permutations, and no statistic tells them from chance.

Keys are fixed, so every statistic here is one number. A fair shuffle would fail one
of these checks with the probability `P` stated for it.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from permfl_jax import shuffle

P = 1e-3


@jax.jit
def orders(keys, counts, positions):
    """`[R, B]`: one order per key."""
    return jax.vmap(shuffle.permute, in_axes=(0, None, 0))(keys, positions, counts)


def many_orders(seed, number, n, positions=None):
    keys = jax.random.split(jax.random.key(seed), number)
    positions = jnp.arange(n, dtype=jnp.int32) if positions is None else positions
    return np.asarray(orders(keys, jnp.full(number, n, jnp.int32), positions))


def chi_square(observed):
    """Probability of a table at least this uneven if all cells are equally likely."""
    return stats.chisquare(np.ravel(observed)).pvalue


def test_every_count_up_to_64_gives_a_permutation_also_under_vmap():
    counts = np.arange(1, 65)
    keys = jax.random.split(jax.random.key(0), 64)
    rows = np.asarray(
        orders(keys, jnp.asarray(counts, jnp.int32), jnp.arange(64, dtype=jnp.int32))
    )
    for n, row in zip(counts, rows, strict=True):
        assert sorted(row[:n].tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1000, 4096, 25_810, 2**20 + 7])
def test_large_counts_give_a_permutation(n):
    order = many_orders(1, 1, n)[0]
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    # Nor is it nearly the stored order: of n places, one is kept on average.
    assert (order == np.arange(n)).sum() < 10


def test_the_largest_count_stays_in_range():
    n = 2**31 - 1
    positions = jnp.array([0, 1, n // 2, n - 2, n - 1], jnp.int32)
    order = many_orders(2, 200, n, positions)
    assert order.min() >= 0
    assert order.max() < n
    assert all(len(set(row)) == 5 for row in order.tolist())


def test_batched_and_single_orders_are_the_same():
    keys = jax.random.split(jax.random.key(3), 3)
    counts = jnp.array([5, 17, 12], jnp.int32)
    positions = jnp.arange(5, dtype=jnp.int32)
    rows = orders(keys, counts, positions)
    for key, count, row in zip(keys, counts, rows, strict=True):
        np.testing.assert_array_equal(shuffle.permute(key, positions, count), row)


def test_an_order_does_not_depend_on_which_positions_are_asked():
    whole = many_orders(4, 1, 100)[0]
    some = jnp.array([97, 3, 3, 50], jnp.int32)
    np.testing.assert_array_equal(many_orders(4, 1, 100, some)[0], whole[some])


def test_the_same_key_gives_the_same_order_and_others_do_not():
    first, second = many_orders(5, 40, 30), many_orders(5, 40, 30)
    np.testing.assert_array_equal(first, second)
    assert len({tuple(row) for row in first.tolist()}) == 40


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_are_equally_likely(n):
    rows = many_orders(6, 60_000, n)
    codes = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    index = [codes[tuple(row)] for row in rows.tolist()]
    assert chi_square(np.bincount(index, minlength=len(codes))) > P


@pytest.mark.parametrize("n", [5, 7, 16])
def test_every_position_goes_everywhere(n):
    rows = many_orders(7, 30_000, n)
    for position in range(n):
        hits = np.bincount(rows[:, position], minlength=n)
        assert chi_square(hits) > P / n


@pytest.mark.parametrize("n", [6, 9])
def test_pairs_of_positions_are_independent(n):
    rows = many_orders(8, 60_000, n)
    pairs = list(itertools.combinations(range(n), 2))
    for i, j in pairs:
        table = np.zeros((n, n))
        np.add.at(table, (rows[:, i], rows[:, j]), 1)
        assert chi_square(table[~np.eye(n, dtype=bool)]) > P / len(pairs)


def test_neighbours_in_a_long_order_are_strangers():
    n, bins = 1000, 20
    rows = many_orders(9, 20_000, n, jnp.array([0, 1, 2, 999], jnp.int32))
    for i, j in itertools.combinations(range(4), 2):
        gap = (rows[:, j] - rows[:, i]) % n  # 1..999, all equally likely
        edges = np.linspace(0.5, n - 0.5, bins + 1)
        expected = np.diff(np.floor(edges)) * len(gap) / (n - 1)
        observed = np.histogram(gap, edges)[0]
        assert stats.chisquare(observed, expected).pvalue > P / 6
        assert chi_square(np.bincount(rows[:, i] // 50, minlength=bins)) > P / 6


def test_consecutive_passes_are_unrelated():
    # As in `batches`: the pass number is folded into the device's key.
    n = 5
    keys = jax.random.split(jax.random.key(10), 20_000)
    passes = [jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, p) for p in (0, 1)]
    counts, positions = jnp.full(20_000, n, jnp.int32), jnp.arange(n, dtype=jnp.int32)
    first, second = (np.asarray(orders(k, counts, positions)) for k in passes)
    for position in range(n):
        table = np.zeros((n, n))
        np.add.at(table, (first[:, position], second[:, position]), 1)
        assert chi_square(table) > P / n
