"""The loss and gradient of one device on one mini-batch, or on all its samples."""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from permfl_jax import batches
from permfl_jax.errors import InputError
from permfl_jax.schedule import Schedule
from permfl_jax.types import Batch, LossFn, Params

# Full-batch gradients are summed over blocks of this many samples, so that memory
# does not grow with the largest device.
FULL_BATCH_BLOCK = 512


def of_one_batch(
    loss_fn: LossFn, schedule: Schedule, pool: Batch, longest: int
) -> Callable[..., tuple[jax.Array, Params]]:
    """`(params, start, count, place, key) -> (loss, gradient)` of one mini-batch.

    Args:
      loss_fn: `(params, batch[, key]) -> losses [B]`.
      schedule: mini-batches, or all samples of a device.
      pool: the samples, leaves `[S, ...]`.
      longest: most samples of a device.

    Returns:
      A function of ONE device: `start` and `count` are its rows of the pool, `place`
      what `batches.positions` gave.
    """
    sum_and_grad = jax.value_and_grad(weighted_sum(loss_fn))

    def minibatch(params, start, count, place, key):
        del count
        position, real = place
        batch = batches.fetch(pool, start, position)
        total = sum_and_grad(params, batch, real, key)
        return jax.tree.map(lambda x: x / real.sum().astype(x.dtype), total)

    def full_batch(params, start, count, place, key):
        del place  # the order does not matter when all samples are seen
        block = min(longest, FULL_BATCH_BLOCK)

        def add(index, total):
            place = index * block + jnp.arange(block, dtype=jnp.int32)
            batch = batches.fetch(pool, start, jnp.minimum(place, count - 1))
            block_key = jax.random.fold_in(key, index)
            part = sum_and_grad(params, batch, place < count, block_key)
            return jax.tree.map(jnp.add, total, part)

        zero = jax.tree.map(jnp.zeros_like, params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        total = jax.lax.fori_loop(0, -(-longest // block), add, (dtype.type(0), zero))
        return jax.tree.map(lambda x: x / count.astype(x.dtype), total)

    return full_batch if schedule.batch_size is None else minibatch


def weighted_sum(loss_fn: LossFn) -> Callable[..., jax.Array]:
    """`(params, batch, real, key) -> []`: the sum of the losses of real samples.

    Raises:
      InputError: at trace time, when `loss_fn` does not give one loss per sample.
    """
    random = takes_key(loss_fn)

    def total(params: Params, batch: Batch, real: jax.Array, key: jax.Array):
        losses = loss_fn(params, batch, key) if random else loss_fn(params, batch)
        if losses.shape != real.shape:
            raise InputError(
                "loss_fn must return one loss per sample of the batch, shape "
                f"{real.shape}; it returned shape {losses.shape}."
            )
        return jnp.where(real, losses, 0).sum()

    return total


def takes_key(loss_fn: LossFn) -> bool:
    """A loss with a third parameter named `key` is random (dropout, for instance)."""
    return "key" in inspect.signature(loss_fn).parameters
