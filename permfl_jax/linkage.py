"""Which models are alike: the top of the tree that average linkage makes of them.

Clusters merge, two at a time, where the mean distance between the rows of one and of
the other is least, until one is left: the root of a tree whose branches are the merges.
Chains of nearest neighbours (Murtagh 1983) find the same merges without a search over
all pairs each time: A² operations for A rows where that search takes A³.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax.types import Params


class _Change(NamedTuple):
    """Rows of the distances that a step makes new, and the columns alike."""

    kept: jax.Array  # [] a cluster
    distance: jax.Array  # [A] from it
    lost: jax.Array  # [] a cluster
    to_lost: jax.Array  # [A]


class _Merging(NamedTuple):
    """A tree half made. A cluster has the number of its first row."""

    distance: jax.Array  # [A, A] between clusters; infinite to itself and to no cluster
    change: _Change  # of `distance`, still to be made
    size: jax.Array  # [A] rows in each cluster, 0 for no cluster
    cluster: jax.Array  # [A] of each row
    path: jax.Array  # [A] which side of its last merges each row was on
    chain: jax.Array  # [A] clusters, each the nearest neighbour of the one before
    length: jax.Array  # [] of the chain


def distances(rows: Params) -> jax.Array:
    """`[A, A]` Euclidean distances between models.

    Args:
      rows: leaves `[A, ...]`, finite.
    """
    leaves = jax.tree.leaves(rows)
    # By products, since differences of all pairs would be A² models; about the mean, as
    # products of models that are far from 0 and near each other lose their digits.
    products = sum(
        _products(leaf - leaf.mean(axis=0, keepdims=True)) for leaf in leaves
    )
    squares = jnp.diagonal(products)
    squared = squares[:, None] + squares[None] - 2 * products
    return jnp.sqrt(jnp.maximum(squared, 0))


def _products(leaf):
    flat = leaf.reshape(leaf.shape[0], -1)
    return jnp.tensordot(flat, flat, axes=(1, 1), precision="highest")


def top_groups(distance: jax.Array, present: jax.Array, levels: int) -> jax.Array:
    """The groups that are left when the tree is cut `levels` branches below its root.

    The root's children are the sides of the last merge, their children the sides of
    each one's own last merge, and so on. A single row is not split.

    Args:
      distance: `[A, A]` between rows.
      present: `[A]` bool; other rows are not in the tree.
      levels: branches.

    Returns:
      `[A]` int32 in `[0, 2**levels)`: half of it is the group one level up. The side
      with the first row has the even number. Rows that are not present are in group 0.
    """
    size = len(present)
    number = jnp.arange(size, dtype=jnp.int32)
    pair = present[:, None] & present[None] & (number[:, None] != number[None])
    distance = jnp.where(pair, distance, jnp.inf)
    start = _Merging(
        distance=distance,
        change=_Change(number[0], distance[0], number[0], distance[0]),
        size=present.astype(distance.dtype),
        cluster=number,
        path=jnp.zeros_like(number),
        chain=jnp.zeros_like(number),
        length=jnp.int32(0),
    )
    # Each merge takes two clusters off the chain, which had been put on it one by one.
    end = jax.lax.fori_loop(0, 3 * (size - 1), lambda _, now: _step(now, levels), start)
    return end.path


def _step(now, levels):
    """Makes the chain longer, or merges its last two; nothing once all are merged."""
    distance = _made(now.distance, now.change)
    first = jnp.argmax(now.size > 0).astype(jnp.int32)
    tip = jnp.where(now.length == 0, first, now.chain[now.length - 1])
    before = now.chain[now.length - 2]
    row = distance[tip]
    near = jnp.argmin(row).astype(jnp.int32)
    # At a tie back, or the chain could run in a circle.
    back = (now.length > 1) & (row[before] <= row[near])
    going = (now.size > 0).sum() > 1
    longer = jnp.where(now.length == 0, first, near)
    end = jnp.where(going & ~back, now.length, len(now.chain))  # or past the last place
    moved = now._replace(
        distance=distance,
        change=_Change(tip, row, tip, row),
        chain=now.chain.at[end].set(longer, mode="drop"),
        length=jnp.where(going, now.length + jnp.where(back, -2, 1), now.length),
    )
    merged = _merge(moved, tip, before, distance[before], levels)
    return moved._replace(
        **{
            name: jax.tree.map(
                lambda new, old: jnp.where(going & back, new, old),
                getattr(merged, name),
                getattr(moved, name),
            )
            for name in ("change", "size", "cluster", "path")
        }
    )


def _made(distance, change):
    """With the change written over what was there, in place.

    A change waits for the next step: computed from the very distances that it is
    written to, it would have all A² of them copied.
    """
    update = jax.lax.dynamic_update_index_in_dim
    distance = update(distance, change.distance, change.kept, 0)
    distance = update(distance, change.distance, change.kept, 1)
    # Nobody asks a cluster that is gone how far it is, so its row may stay.
    return update(distance, change.to_lost, change.lost, 1)


def _merge(now, tip, before, from_before, levels):
    """The tree after two clusters became one, but for its distances and chain."""
    share = now.size[tip] / (now.size[tip] + now.size[before])
    # Lance-Williams: the mean over all pairs of rows, from the means of the two.
    joint = share * now.change.distance + (1 - share) * from_before
    kept, lost = jnp.minimum(tip, before), jnp.maximum(tip, before)
    left, right = now.cluster == kept, now.cluster == lost
    # The last merge is the highest branch, so its side becomes the highest digit.
    path = now.path // 2 + jnp.where(right, 2 ** (levels - 1), 0)
    return now._replace(
        change=_Change(kept, joint, lost, jnp.full_like(joint, jnp.inf)),
        size=now.size.at[kept].add(now.size[lost]).at[lost].set(0),
        cluster=jnp.where(right, kept, now.cluster),
        path=jnp.where(left | right, path, now.path),
    )
