"""Arithmetic on stacked pytrees that optax does not have: rows and team means."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from permfl_jax.types import Params

# Up to this many teams a mean over the devices of each team is one matrix product: a
# fixed order of additions (the same bits on every run, also on GPU) and one all-reduce
# when devices are sharded. It costs 2·M·A·P operations, against 4·L·B·A·P or more for
# the local steps, so beyond some hundred teams a scatter-add of A·P is cheaper.
_ONE_HOT_TEAMS = 512
# Rows are added in blocks of up to this many, then the blocks: in float32, one long sum
# over 10^5 devices of a team ends 5e-4 away from the mean of equal rows.
SUM_BLOCK = 256


def largest_divisor(number: int, most: int | None) -> int:
    """Of `number`, up to `most`: equal parts, so that nothing compiles twice."""
    most = number if most is None else min(most, number)
    return next(n for n in range(most, 0, -1) if number % n == 0)


def take(tree: Params, index: jax.Array | None) -> Params:
    """Rows `index` of every leaf; `None` means all rows, in order, and copies nothing.

    Args:
      tree: leaves `[D, ...]`.
      index: `[A]` int32 or `None`. An index past the end gives the last row.

    Returns:
      Leaves `[A, ...]`.
    """
    if index is None:
        return tree
    return jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), tree)


def put(tree: Params, index: jax.Array | None, rows: Params) -> Params:
    """`tree` with `rows` written at `index`; the inverse of `take`.

    Args:
      tree: leaves `[D, ...]`.
      index: `[A]` int32 or `None` for all rows. An index past the end writes nothing.
      rows: leaves `[A, ...]`.

    Returns:
      Leaves `[D, ...]`; rows that are not in `index` keep their bits.

    Examples:
      >>> put(jnp.zeros(3), jnp.array([0, 2]), jnp.array([5.0, 6.0])).tolist()
      [5.0, 0.0, 6.0]
    """
    if index is None:
        return rows
    return jax.tree.map(lambda x, r: x.at[index].set(r, mode="drop"), tree, rows)


def where(chosen: jax.Array, new: Params, old: Params) -> Params:
    """Rows of `new` where `chosen` `[A]`, or all where `[]`, else `old`; to the bit.

    Examples:
      >>> where(jnp.array([True, False]), jnp.ones(2), jnp.zeros(2)).tolist()
      [1.0, 0.0]
    """

    def leaf(n, o):
        ones = [1] * (n.ndim - chosen.ndim)
        return jnp.where(chosen.reshape((*chosen.shape, *ones)), n, o)

    return jax.tree.map(leaf, new, old)


def stack(tree: Params, size: int) -> Params:
    """`size` copies of a model: leaves `[...]` become `[size, ...]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), tree)


def mean(tree: Params, weight: jax.Array) -> Params:
    """Weighted mean over the leading axis.

    Args:
      tree: leaves `[M, ...]`.
      weight: `[M]`, at least 0 and not all 0; need not sum to one.

    Returns:
      Leaves `[...]`.

    Examples:
      >>> mean(jnp.array([[0.0, 2.0], [4.0, 2.0]]), jnp.array([3.0, 1.0])).tolist()
      [1.0, 2.0]
    """

    def leaf(x):
        w = weight.astype(x.dtype)
        return jnp.tensordot(w / w.sum(), x, axes=1, precision="highest")

    return jax.tree.map(leaf, tree)


def segment_mean(
    tree: Params,
    weight: jax.Array,
    segment: jax.Array,
    num_segments: int,
    total: Callable[[Any], Any] = lambda value: value,
) -> Params:
    """Weighted mean of the rows of each segment, for segments of unequal size.

    Args:
      tree: leaves `[A, ...]`.
      weight: `[A]`, at least 0; a row of weight 0 does not count.
      segment: `[A]` int32 in `[0, num_segments)`.
      num_segments: M.
      total: sums arrays over the chips that hold rows of these segments.

    Returns:
      Leaves `[M, ...]`; a segment without weight gives 0.

    Examples:
      >>> rows, weight = jnp.array([1.0, 3.0, 8.0]), jnp.ones(3)
      >>> segment_mean(rows, weight, jnp.array([0, 0, 1]), 3).tolist()
      [2.0, 8.0, 0.0]
    """
    share = segment_share(weight, segment, num_segments, total)
    return total(segment_sum(tree, share, segment, num_segments))


def segment_share(
    weight: jax.Array,
    segment: jax.Array,
    num_segments: int,
    total: Callable[[Any], Any] = lambda value: value,
) -> jax.Array:
    """`[A]`: each row's part of its segment's weight; arguments as `segment_mean`."""
    sums = total(jax.ops.segment_sum(weight, segment, num_segments))
    return weight / jnp.where(sums > 0, sums, 1)[segment]


def segment_sum(
    tree: Params, weight: jax.Array, segment: jax.Array, num_segments: int
) -> Params:
    """Weighted sum of the rows of each segment; arguments as `segment_mean`."""
    size = largest_divisor(len(segment), SUM_BLOCK)
    if size == len(segment) or 16 * size < SUM_BLOCK:
        return _block_sum(tree, weight, segment, num_segments)

    def add(total, block):
        rows, weight, segment = block
        part = _block_sum(rows, weight, segment, num_segments)
        return jax.tree.map(jnp.add, total, part), None

    blocks = jax.tree.map(
        lambda x: x.reshape(-1, size, *x.shape[1:]), (tree, weight, segment)
    )
    zero = jax.tree.map(
        lambda x: jnp.zeros((num_segments, *x.shape[1:]), x.dtype), tree
    )
    return jax.lax.scan(add, zero, blocks)[0]


def _block_sum(tree, weight, segment, num_segments):
    if num_segments <= _ONE_HOT_TEAMS:
        members = jax.nn.one_hot(segment, num_segments, axis=0, dtype=weight.dtype)
        return jax.tree.map(lambda x: _product(members * weight[None], x), tree)
    return jax.tree.map(lambda x: _scatter(x, weight, segment, num_segments), tree)


def add_rows(
    total: Params, rows: Params, weight: jax.Array, segment: jax.Array
) -> Params:
    """`total` plus the weighted rows of each segment.

    Few rows are added one after the other, in place and in a fixed order, so that the
    cost follows the rows and not the segments.

    Args:
      total: leaves `[M, ...]`.
      rows: leaves `[A, ...]`.
      weight: `[A]`.
      segment: `[A]` int32 in `[0, M)`.
    """
    num_segments = jax.tree.leaves(total)[0].shape[0]
    if len(segment) >= num_segments:
        part = segment_sum(rows, weight, segment, num_segments)
        return jax.tree.map(jnp.add, total, part)

    def add(total, one):
        row, weight, place = one
        return jax.tree.map(
            lambda x, r: x.at[place].add(weight.astype(r.dtype) * r), total, row
        ), None

    return jax.lax.scan(add, total, (rows, weight, segment))[0]


def _product(share, x):
    return jnp.tensordot(share.astype(x.dtype), x, axes=1, precision="highest")


def _scatter(x, share, segment, num_segments):
    weighted = x * share.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return jax.ops.segment_sum(weighted, segment, num_segments)


def step(start: Params, direction: Params, size: jax.Array) -> Params:
    """`start - size · direction`, in the dtype of each leaf."""
    return jax.tree.map(lambda x, d: x - size.astype(x.dtype) * d, start, direction)


def lerp(start: Params, end: Params, share: jax.Array) -> Params:
    """`(1 - share) start + share · end`, in the dtype of each leaf.

    Examples:
      >>> lerp(jnp.array([0.0, 8.0]), jnp.array([4.0, 8.0]), jnp.float32(0.25)).tolist()
      [1.0, 8.0]
    """

    def leaf(x, y):
        s = share.astype(x.dtype)
        return (1 - s) * x + s * y

    return jax.tree.map(leaf, start, end)


def finite_rows(tree: Params) -> jax.Array:
    """`[A]` bool: every floating-point number of a row, and its square, is finite.

    A model whose norm overflows has diverged, also where a bounded gradient keeps its
    numbers just below the largest float.

    Args:
      tree: leaves `[A, ...]`.
    """
    rows = [
        jnp.isfinite(x * x).all(axis=tuple(range(1, x.ndim)))
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    count = jax.tree.leaves(tree)[0].shape[0]
    return jnp.stack(rows).all(axis=0) if rows else jnp.ones(count, bool)


def dot(one: Params, other: Params) -> jax.Array:
    """`[]`: sum of the products of all numbers of two models."""
    leaves = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(one)))
    return sum((jnp.vdot(a, b) for a, b in leaves), start=zero)


def square(model: Params) -> jax.Array:
    """`[]`: sum of the squares of all numbers of a model."""
    return dot(model, model)
