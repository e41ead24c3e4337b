"""What devices do between two messages: proximal gradient steps, for every method."""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from permfl_jax import batches, keys, tree
from permfl_jax.errors import InputError
from permfl_jax.participation import Cohort
from permfl_jax.schedule import Schedule
from permfl_jax.types import Batch, Federation, LossFn, Params

# Full-batch gradients are summed over blocks of this many samples, so that memory
# does not grow with the largest device.
_FULL_BATCH_BLOCK = 512


def train(
    loss_fn: LossFn,
    schedule: Schedule,
    key: jax.Array,
    params: Params,
    anchor: Params | None,
    lr: jax.Array,
    prox: jax.Array,
    federation: Federation,
    cohort: Cohort,
    cursor: jax.Array,
) -> tuple[Params, jax.Array]:
    """L steps of every device of a cohort: θ <- θ - α(∇f(θ) + λ(θ - w)).

    PerMFL, arXiv:2407.14251, Algorithm 1, innermost loop; with λ = 0, plain SGD.

    Args:
      loss_fn: `(params, batch[, key]) -> losses [B]`.
      schedule: gives L and the batches.
      key: `keys.batch_key(run key)`.
      params: θ at the start, leaves `[A, ...]`.
      anchor: w, fixed during the L steps, leaves `[A, ...]`; `None` for no pull.
      lr: α, `[]` or `[A]`.
      prox: λ, `[]` or `[A]`.
      federation: where the samples are.
      cohort: which devices these are.
      cursor: `[A]` int32, steps each has taken before.

    Returns:
      θ after L steps, leaves `[A, ...]`, and the mean loss over the steps, `[A]`.
    """
    start, count, identity = tree.take(
        (federation.train.start, federation.train.count, federation.identity),
        cohort.device,
    )
    lr, prox = (jnp.broadcast_to(value, start.shape) for value in (lr, prox))
    descend = _descend(loss_fn, schedule, federation)
    device_keys = keys.fold_each(key, identity)
    return jax.vmap(descend)(
        params, anchor, lr, prox, start, count, cursor, device_keys
    )


def _descend(loss_fn, schedule, federation):
    """The rule for ONE device; no D or A below this line."""
    value_and_grad = _gradient(loss_fn, schedule, federation)

    def descend(params, anchor, lr, prox, start, count, cursor, key):
        order_key, noise_key = jax.random.split(key)

        def step(params, number):
            loss, grads = value_and_grad(
                params, start, count, cursor + number, order_key, noise_key
            )
            if anchor is not None:
                grads = jax.tree.map(
                    lambda g, p, w: g + prox.astype(p.dtype) * (p - w),
                    grads,
                    params,
                    anchor,
                )
            return tree.step(params, grads, lr), loss

        steps = jnp.arange(schedule.device_steps, dtype=jnp.int32)
        params, losses = jax.lax.scan(step, params, steps)
        return params, losses.mean()

    return descend


def _gradient(loss_fn, schedule, federation):
    """`(params, start, count, cursor, keys...) -> (loss, gradient)` of one step."""
    pool, longest = federation.train.pool, federation.train.max_count
    sum_and_grad = jax.value_and_grad(weighted_sum(loss_fn))

    def minibatch(params, start, count, cursor, order_key, noise_key):
        # The same step as with any larger B: all samples of every device.
        batch_size = min(schedule.batch_size, longest)
        place, real = batches.positions(
            schedule.batching, batch_size, order_key, cursor, count
        )
        batch = batches.fetch(pool, start, place)
        total = sum_and_grad(params, batch, real, jax.random.fold_in(noise_key, cursor))
        return jax.tree.map(lambda x: x / real.sum().astype(x.dtype), total)

    def full_batch(params, start, count, cursor, order_key, noise_key):
        del order_key  # the order does not matter when all samples are seen
        block = min(longest, _FULL_BATCH_BLOCK)

        def add(index, total):
            place = index * block + jnp.arange(block, dtype=jnp.int32)
            batch = batches.fetch(pool, start, jnp.minimum(place, count - 1))
            block_key = jax.random.fold_in(jax.random.fold_in(noise_key, cursor), index)
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
