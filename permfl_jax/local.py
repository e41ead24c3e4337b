"""What devices do between two messages: steps by a rule, for every method."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import batches, gradient, keys, placement, tree
from permfl_jax.cohort import Cohort
from permfl_jax.rules import Rule, Step, proximal
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation, LossFn, Params


class Shared(NamedTuple):
    """Models that the devices of a team start from, or are pulled to.

    A device's row, `cohort.slot`, is taken when it is computed: no copy for each.

    Attributes:
      models: leaves `[m, ...]`, one for each team of the round.
    """

    models: Params


def _start_of(start, anchor):
    del anchor
    return start


def _sent_only(carry):
    return carry, None


class Steps(NamedTuple):
    """What the steps of a cohort hang on.

    Attributes:
      loss_fn: `(params, batch[, key]) -> losses [B]`.
      schedule: gives L and the batches.
      key: `keys.batch_key(run key)`.
      rates: what the rule takes, leaves `[]` or `[A]`; `rules.Rates` for `proximal`.
      federation: where the samples are.
      rule: what a device does in one step.
      count: steps; `None` for L.
      batches: mini-batches that one step sees.
      begin: `(start, anchor) -> θ`, what a rule carries that is more than a model.
      end: `θ -> (sent, kept)`, for `train_mean`: what is averaged, and what stays.
    """

    loss_fn: LossFn
    schedule: Schedule
    key: jax.Array
    rates: Any
    federation: Federation
    rule: Rule = proximal
    count: int | None = None
    batches: int = 1
    begin: Callable[[Any, Any], Any] = _start_of
    end: Callable[[Any], tuple[Any, Any]] = _sent_only

    @property
    def numbers(self) -> jax.Array:
        """`[steps, batches]`: the mini-batches, counted from the device's cursor."""
        count = self.schedule.device_steps if self.count is None else self.count
        number = jnp.arange(count * self.batches, dtype=jnp.int32)
        return number.reshape(count, self.batches)

    @property
    def taken(self) -> int:
        """How far the steps move a device's cursor."""
        return self.numbers.size


def train(
    steps: Steps,
    cohort: Cohort,
    cursor: jax.Array,
    start: Params | Shared,
    anchor: Params | Shared | None,
) -> tuple[Params, jax.Array]:
    """The steps of every device of a cohort.

    Args:
      steps: the rule, how often, on which batches.
      cohort: which devices these are.
      cursor: `[A]` int32, mini-batches each has seen before.
      start: θ before the steps: leaves `[A, ...]`, or `Shared`.
      anchor: what the rule keeps fixed, such as w, likewise; or `None`.

    Returns:
      θ after the steps, leaves `[A, ...]`, and the mean loss over the steps, `[A]`.
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
) -> tuple[Params, Params, jax.Array]:
    """As `train`, but of θ keeps only the mean, and of each device what `end` tells.

    Args:
      steps: the rule.
      cohort: which devices these are.
      cursor: see `train`.
      start: see `train`.
      anchor: see `train`.
      weight: `[A]`, of the mean, from `cohort.weights`.
      num_teams: m, the teams that act.

    Returns:
      The mean of what each team's devices send, leaves `[m, ...]`; what they keep,
      leaves `[A, ...]` or `None`; and the losses, `[A]` or as the rule gives them.
    """
    here = cohort.teams_on_chip(num_teams)

    def on_chip(pool, shared, devices, weight, slot):
        run = jax.vmap(_descend(steps, pool), in_axes=(None, 0))
        at_once = _at_once(steps, pool, shared, devices)
        own = cohort.own_slot(slot, here)
        share = tree.segment_share(weight, own, here, cohort.sum_over_chips)

        def add(total, group):
            some, share, own = group
            theta, loss = run(shared, some)
            sent, kept = steps.end(theta)
            return tree.add_rows(total, sent, share, own), (kept, loss)

        def add_block(total, block):
            part, rows = jax.lax.scan(add, zero, block)
            return jax.tree.map(jnp.add, total, part), rows

        per_block = tree.largest_divisor(len(share) // at_once, tree.SUM_BLOCK)
        blocks = jax.tree.map(
            lambda x: x.reshape(-1, per_block, at_once, *x.shape[1:]),
            (devices, share, own),
        )
        first = jax.tree.map(lambda x: x[0], devices)
        one = jax.eval_shape(_descend(steps, pool), shared, first)[0]
        sent = jax.eval_shape(steps.end, one)[0]
        zero = jax.tree.map(lambda x: jnp.zeros((here, *x.shape), x.dtype), sent)
        mean, rows = jax.lax.scan(add_block, zero, blocks)
        kept, loss = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rows)
        return cohort.sum_over_chips(mean), kept, loss

    specs = (cohort.team_spec, placement.BY_DEVICE, placement.BY_DEVICE)
    more = (weight, cohort.slot)
    return _per_chip(on_chip, specs, steps, cohort, cursor, start, anchor, *more)


class _Devices(NamedTuple):
    """What the devices of a cohort do not share, leaves `[A, ...]`."""

    start: jax.Array
    count: jax.Array
    identity: jax.Array
    cursor: jax.Array
    slot: jax.Array
    rates: Any
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
        jax.tree.map(lambda x: jnp.broadcast_to(x, first.shape), steps.rates),
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
    carried = jax.eval_shape(
        lambda shared, all_: _begin(steps, shared, jax.tree.map(lambda x: x[0], all_)),
        shared,
        devices,
    )[0]
    model = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(carried))
    longest = steps.federation.train.max_count
    batch_size = min(steps.schedule.batch_size or gradient.FULL_BATCH_BLOCK, longest)
    sample = sum(4 * x.size // max(x.shape[0], 1) for x in jax.tree.leaves(pool))
    # θ, w and the gradient, and the samples as floats.
    step_bytes = 3 * model + batch_size * sample
    return placement.devices_at_once(
        steps.federation.placement, len(devices.count), step_bytes
    )


def _begin(steps, shared, device):
    """What ONE device carries before its first step, and its anchor."""
    own = jax.tree.map(lambda x: x[device.slot], shared)
    start = device.theta if own[0] is None else own[0]
    anchor = device.anchor if own[1] is None else own[1]
    return steps.begin(start, anchor), anchor


def _descend(steps, pool):
    """The steps of ONE device; no D or A below this line."""
    schedule, longest = steps.schedule, steps.federation.train.max_count
    value_and_grad = gradient.of_one_batch(steps.loss_fn, schedule, pool, longest)
    # The same step as with any larger B: all samples of every device.
    batch_size = schedule.batch_size and min(schedule.batch_size, longest)

    def descend(shared, device):
        params, anchor = _begin(steps, shared, device)
        device_key = jax.random.fold_in(steps.key, device.identity)
        order_key, noise_key = jax.random.split(device_key)

        def step(params, now):
            number, places = now

            def on_batch(params, which=0):
                noise = jax.random.fold_in(noise_key, number[which])
                place = jax.tree.map(lambda x: x[which], places)
                return value_and_grad(params, device.start, device.count, place, noise)

            draws = jax.random.fold_in(draw_key, number[0])
            return steps.rule(Step(on_batch, anchor, device.rates, draws), params)

        draw_key = keys.draw_key(device_key)
        numbers = device.cursor + steps.numbers
        # Where all batches lie, at once: step by step, drawing the order of the
        # samples costs more than the step of a small model.
        places = None
        if batch_size:
            position = functools.partial(
                batches.positions, schedule.batching, batch_size, order_key
            )
            places = jax.vmap(jax.vmap(lambda n: position(n, device.count)))(numbers)
        params, losses = jax.lax.scan(step, params, (numbers, places))
        return params, losses.mean(axis=0)

    return descend
