"""What devices do between two messages: proximal gradient steps, for every method."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import batches, placement, tree
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.schedule import Schedule
from permfl_jax.types import Batch, Federation, LossFn, Params

# Full-batch gradients are summed over blocks of this many samples, so that memory
# does not grow with the largest device.
_FULL_BATCH_BLOCK = 512


class Shared(NamedTuple):
    """Models that the devices of a team start from, or are pulled to.

    A device's row, `cohort.slot`, is taken when it is computed: no copy for each.

    Attributes:
      models: leaves `[m, ...]`, one for each team of the round.
    """

    models: Params


class Steps(NamedTuple):
    """What the L steps of a cohort hang on.

    Attributes:
      loss_fn: `(params, batch[, key]) -> losses [B]`.
      schedule: gives L and the batches.
      key: `keys.batch_key(run key)`.
      lr: α, `[]` or `[A]`.
      prox: λ, `[]` or `[A]`.
      federation: where the samples are.
    """

    loss_fn: LossFn
    schedule: Schedule
    key: jax.Array
    lr: jax.Array
    prox: jax.Array
    federation: Federation


def train(
    steps: Steps,
    cohort: Cohort,
    cursor: jax.Array,
    start: Params | Shared,
    anchor: Params | Shared | None,
) -> tuple[Params, jax.Array]:
    """L steps of every device of a cohort: θ <- θ - α(∇f(θ) + λ(θ - w)).

    PerMFL, arXiv:2407.14251, Algorithm 1, innermost loop; with λ = 0, plain SGD.

    Args:
      steps: the rule.
      cohort: which devices these are.
      cursor: `[A]` int32, steps each has taken before.
      start: θ before the steps: leaves `[A, ...]`, or `Shared`.
      anchor: w, fixed during the steps, likewise; `None` for no pull.

    Returns:
      θ after L steps, leaves `[A, ...]`, and the mean loss over the steps, `[A]`.
    """

    def on_chip(pool, shared, devices):
        run = _descend(steps, pool)
        at_once = _at_once(steps, pool, shared, devices)
        if at_once == len(devices.count):
            return jax.vmap(run, in_axes=(None, 0))(shared, devices)
        size = None if at_once == 1 else at_once
        return jax.lax.map(lambda one: run(shared, one), devices, batch_size=size)

    spec = placement.BY_DEVICE
    return _per_chip(on_chip, (spec, spec), steps, cohort, cursor, start, anchor)


def train_mean(
    steps: Steps,
    cohort: Cohort,
    cursor: jax.Array,
    start: Params | Shared,
    anchor: Params | Shared | None,
    weight: jax.Array,
    num_teams: int,
) -> tuple[Params, jax.Array]:
    """As `train`, but keeps no device's θ: memory is that of the devices at once.

    Args:
      steps: the rule.
      cohort: which devices these are.
      cursor: see `train`.
      start: see `train`.
      anchor: see `train`.
      weight: `[A]`, of the mean, from `cohort.weights`.
      num_teams: m, the teams that act.

    Returns:
      The mean θ of each team's devices, leaves `[m, ...]`, and the losses `[A]`.
    """
    here = cohort.teams_on_chip(num_teams)

    def on_chip(pool, shared, devices, weight, slot):
        run = jax.vmap(_descend(steps, pool), in_axes=(None, 0))
        at_once = _at_once(steps, pool, shared, devices)
        own = cohort.own_slot(slot, here)
        sums = cohort.sum_over_chips(jax.ops.segment_sum(weight, own, here))
        share = weight / jnp.where(sums > 0, sums, 1)[own]

        def add(total, group):
            some, share, own = group
            theta, loss = run(shared, some)
            return tree.add_rows(total, theta, share, own), loss

        def add_block(total, block):
            part, loss = jax.lax.scan(add, zero, block)
            return jax.tree.map(jnp.add, total, part), loss

        per_block = tree.largest_divisor(len(share) // at_once, 256)  # as segment_sum
        blocks = jax.tree.map(
            lambda x: x.reshape(-1, per_block, at_once, *x.shape[1:]),
            (devices, share, own),
        )
        first = jax.tree.map(lambda x: x[0], devices)
        one = jax.eval_shape(_descend(steps, pool), shared, first)[0]
        zero = jax.tree.map(lambda x: jnp.zeros((here, *x.shape), x.dtype), one)
        mean, loss = jax.lax.scan(add_block, zero, blocks)
        return cohort.sum_over_chips(mean), loss.reshape(-1)

    specs = (cohort.team_spec, placement.BY_DEVICE)
    more = (weight, cohort.slot)
    return _per_chip(on_chip, specs, steps, cohort, cursor, start, anchor, *more)


class _Devices(NamedTuple):
    """What the devices of a cohort do not share, leaves `[A, ...]`."""

    start: jax.Array
    count: jax.Array
    identity: jax.Array
    cursor: jax.Array
    slot: jax.Array
    lr: jax.Array
    prox: jax.Array
    theta: Params  # `None` where `Shared`
    anchor: Params


def _per_chip(on_chip, out_specs, steps, cohort, cursor, start, anchor, *more):
    """Maps `on_chip(pool, shared (start, anchor), devices, *more)` over the chips."""
    federation = steps.federation
    first, count, identity = cohort.take(
        (federation.train.start, federation.train.count, federation.identity)
    )
    devices = _Devices(
        first,
        count,
        identity,
        cursor,
        cohort.slot,
        *(jnp.broadcast_to(value, first.shape) for value in (steps.lr, steps.prox)),
        *(None if isinstance(value, Shared) else value for value in (start, anchor)),
    )
    shared = tuple(
        value.models if isinstance(value, Shared) else None for value in (start, anchor)
    )
    teams = jax.tree.leaves(shared)

    def with_own_slots(pool, shared, devices, *more):
        here = jax.tree.leaves(shared)[0].shape[0] if teams else 0
        own = cohort.own_slot(devices.slot, here)
        return on_chip(pool, shared, devices._replace(slot=own), *more)

    spec = placement.BY_DEVICE
    in_specs = (spec, cohort.team_spec, spec, *[spec] * len(more))
    function = placement.per_chip(cohort.placement, with_own_slots, in_specs, out_specs)
    return function(federation.train.pool, shared, devices, *more)


def _at_once(steps, pool, shared, devices):
    """How many of the chip's devices to compute together."""
    rows = next(x for x in (devices.theta, shared[0]) if x is not None)
    model = sum(x.size // x.shape[0] * x.dtype.itemsize for x in jax.tree.leaves(rows))
    longest = steps.federation.train.max_count
    batch_size = min(steps.schedule.batch_size or _FULL_BATCH_BLOCK, longest)
    sample = sum(4 * x.size // max(x.shape[0], 1) for x in jax.tree.leaves(pool))
    # θ, w and the gradient, and the samples as floats.
    step_bytes = 3 * model + batch_size * sample
    return placement.devices_at_once(
        steps.federation.placement, len(devices.count), step_bytes
    )


def _descend(steps, pool):
    """The rule for ONE device; no D or A below this line."""
    schedule, longest = steps.schedule, steps.federation.train.max_count
    value_and_grad = _gradient(steps.loss_fn, schedule, pool, longest)
    # The same step as with any larger B: all samples of every device.
    batch_size = schedule.batch_size and min(schedule.batch_size, longest)

    def descend(shared, device):
        own = jax.tree.map(lambda x: x[device.slot], shared)
        params = device.theta if own[0] is None else own[0]
        anchor = device.anchor if own[1] is None else own[1]
        device_key = jax.random.fold_in(steps.key, device.identity)
        order_key, noise_key = jax.random.split(device_key)

        def step(params, now):
            number, place = now
            noise = jax.random.fold_in(noise_key, number)
            loss, grads = value_and_grad(
                params, device.start, device.count, place, noise
            )
            if anchor is not None:
                grads = jax.tree.map(
                    lambda g, p, w: g + device.prox.astype(p.dtype) * (p - w),
                    grads,
                    params,
                    anchor,
                )
            return tree.step(params, grads, device.lr), loss

        numbers = device.cursor + jnp.arange(schedule.device_steps, dtype=jnp.int32)
        # Where all L batches lie, at once: step by step, drawing the order of the
        # samples costs more than the step of a small model.
        places = None
        if batch_size:
            places = jax.vmap(
                lambda number: batches.positions(
                    schedule.batching, batch_size, order_key, number, device.count
                )
            )(numbers)
        params, losses = jax.lax.scan(step, params, (numbers, places))
        return params, losses.mean()

    return descend


def _gradient(loss_fn, schedule, pool, longest):
    """`(params, start, count, place, key) -> (loss, gradient)` of one step."""
    sum_and_grad = jax.value_and_grad(weighted_sum(loss_fn))

    def minibatch(params, start, count, place, key):
        del count
        position, real = place
        batch = batches.fetch(pool, start, position)
        total = sum_and_grad(params, batch, real, key)
        return jax.tree.map(lambda x: x / real.sum().astype(x.dtype), total)

    def full_batch(params, start, count, place, key):
        del place  # the order does not matter when all samples are seen
        block = min(longest, _FULL_BATCH_BLOCK)

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
