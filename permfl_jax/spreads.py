"""How far devices and teams are apart, and how noisy that is: one look at x a round.

Everybody who acts reads two gradients of one mini-batch at the same point x: the mean
over its samples, g, and one with random signs before the samples, u. The first differs
between devices because their optima differ AND because samples are few; the second
knows only of the samples. So the second is what has to be subtracted from the spread of
the first.

At x samples also differ because x does not suit the device. That goes away as it
learns, so what its samples are worth, and the curvature along their noise, are read at
its own model θ, by a second u. docs/permfl_auto.md has the derivation.

All spreads are those of gradients, h² times those of optima; only ratios are used.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import keys, local, placement, tree, weighting
from permfl_jax.cohort import Cohort
from permfl_jax.gradient import takes_key
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Step
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation, LossFn, Params

_ROUNDING = 1e-6


class Spreads(NamedTuple):
    """Squared gradients, summed over coordinates, each `[]`.

    Attributes:
      device: between the devices of a team, without the samples' noise; may come out
        below 0. Half of both spreads where one device of each team acts.
      team: of the teams' mean gradients at x, without that of devices and samples. At
        a fitted x the spread between teams; before, also how far x is from them.
      sample: between the samples of a device, at its own model.
      curved: uᵀHu there, mean over devices; with g for u where samples do not differ.
      energy: uᵀu, likewise; `curved / energy` is the curvature h.
    """

    device: jax.Array
    team: jax.Array
    sample: jax.Array
    curved: jax.Array
    energy: jax.Array


class _Reading(NamedTuple):
    """Of one device: g at x, squares of what it and its samples say, there and at θ."""

    gradient: Params
    energy: jax.Array
    noise: jax.Array
    at_own: jax.Array  # as `noise`, at θ; so are the two below
    curved: jax.Array
    along: jax.Array


def look(
    loss_fn: LossFn,
    schedule: Schedule,
    sampler: Sampler,
    key: jax.Array,
    cohort: Cohort,
    cursor: jax.Array,
    teams: jax.Array | None,
    server: Params,
    own: Params | Shared,
    federation: Federation,
) -> tuple[Spreads, jax.Array]:
    """The spreads and the loss at x, by the mini-batch each device is about to use.

    Costs four gradients and a product with a Hessian, about six gradients of K·L. The
    devices of a team send it a gradient; a team sends the server eleven numbers.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: batches and weights.
      sampler: how many teams there are.
      key: of the run.
      cohort: who acts.
      cursor: `[A]` int32, number of the mini-batch; it is not used up.
      teams: `[m]`, those that act, or `None` for all.
      server: x.
      own: θ, leaves `[A, ...]`, or `Shared` models of their teams; who has not acted
        yet takes x.
      federation: the data.
    """
    steps = Steps(
        signed(loss_fn),
        schedule,
        keys.batch_key(key),
        cursor == 0,
        federation,
        rule=_read,
        count=1,
        begin=_blank,
        end=_split,
    )
    weight = cohort.weights(weighting.device_weights(schedule, federation))
    acting = sampler.acting_teams
    at_x = Shared(tree.stack(server, acting))
    mean, reading, loss = local.train_mean(
        steps, cohort, cursor, at_x, own, weight, acting
    )
    size = jax.vmap(square)(mean)
    count = cohort.take(federation.train.count)
    seen = _samples_seen(schedule, federation.train.max_count, cursor, count)
    sums = _team_sums(
        *(cohort, acting, reading, loss.astype(size.dtype)),
        *(weight.astype(size.dtype), seen.astype(size.dtype)),
    )
    every_team = weighting.team_weights(schedule, federation, sampler.num_teams)
    every_team = (every_team / every_team.sum()).astype(size.dtype)
    return _spreads(sums, size, every_team, teams)


class _Sums(NamedTuple):
    """Means over the devices of each team, `[m]`; p are the weights of a mean."""

    energy: jax.Array
    own: jax.Array  # p
    noise: jax.Array  # 1 / r
    own_noise: jax.Array  # p / r
    sample: jax.Array  # r u²
    at_own: jax.Array  # the same at θ
    freedom: jax.Array  # 1 - 1 / r
    curved: jax.Array
    along: jax.Array
    loss: jax.Array


def _team_sums(cohort, acting, reading, loss, weight, seen):
    """On several chips nothing but these sums is sent."""
    here = cohort.teams_on_chip(acting)

    def on_chip(reading, loss, weight, seen, slot):
        own = cohort.own_slot(slot, here)
        share = tree.segment_share(weight, own, here, cohort.sum_over_chips)
        rows = _Sums(
            reading.energy,
            share,
            1 / seen,
            share / seen,
            seen * reading.noise,
            seen * reading.at_own,
            1 - 1 / seen,
            reading.curved,
            reading.along,
            loss,
        )
        return cohort.sum_over_chips(tree.segment_sum(rows, share, own, here))

    specs = (placement.BY_DEVICE,) * 5
    return placement.per_chip(cohort.placement, on_chip, specs, cohort.team_spec)(
        reading, loss, weight, seen, cohort.slot
    )


def _spreads(sums, size, every_team, teams):
    """Moments: every square is what it says plus the noise that it must contain."""
    team_share = tree.take(every_team, teams)
    team_share /= team_share.sum()
    sample = ratio(sums.sample.sum(), sums.freedom.sum())
    # Weighted squares around the team's mean: Σp(1-p) times one device's.
    within = (sums.energy - size - sample * (sums.noise - sums.own_noise)).sum()
    freedom = (1 - sums.own).sum()
    # w/w may miss 1 by a rounding, and two devices leave far more than this.
    alone = freedom < _ROUNDING * len(sums.own)
    # x is fitted to these very teams.
    fitted = 1 - (every_team**2).sum()
    means = ratio((team_share * size).sum(), fitted)
    # E Σ q_i |ḡ_i - ḡ|² is Σ q_i (1 - q_i) times a team's own.
    kept = team_share * ratio(1 - tree.take(every_team, teams), fitted)
    noise = sample * sums.own_noise
    # Where one device of each team acts, its spread and its team's are one number.
    both = means - (kept * noise).sum()
    if len(every_team) == 1:  # nobody to compare with: as much as it may err
        both = 2 * noise.sum()
    device = jnp.where(alone, both / 2, ratio(within, freedom))
    # Of a team's mean: Σp² times one device's.
    mean_of_own = jnp.maximum(device, 0) * sums.own + noise
    team = jnp.where(alone, both / 2, means - (kept * mean_of_own).sum())
    return Spreads(
        device,
        team,
        ratio(sums.at_own.sum(), sums.freedom.sum()),
        (team_share * sums.curved).sum(),
        (team_share * sums.along).sum(),
    ), (team_share * sums.loss).sum()


def _samples_seen(schedule, longest, cursor, count):
    """`[A]`, the real samples of a mini-batch; see `batches`."""
    if schedule.batch_size is None:
        return count
    size = min(schedule.batch_size, longest)
    place = cursor % ((count + size - 1) // size)
    return jnp.minimum(size, count - place * size)


def signed(loss_fn: LossFn) -> LossFn:
    """The loss at `(params, twin, 0)`: its gradients are of three kinds.

    By `params` it is the ordinary one; by `twin`, each sample's has a random sign; by
    `tilt` it is the mean sign.
    """
    random = takes_key(loss_fn)

    def loss(triple: tuple[Params, Params, jax.Array], batch: Any, key: jax.Array):
        params, twin, tilt = triple
        sign_key, own_key = jax.random.split(key)
        more = (own_key,) if random else ()
        straight = loss_fn(params, batch, *more)
        sign = jax.random.rademacher(sign_key, straight.shape, straight.dtype)
        again = loss_fn(twin, batch, *more)
        # Of the twin the gradient alone: the value stays that at `params`.
        return straight + sign * (again - jax.lax.stop_gradient(again) + tilt)

    return loss


def _read(step: Step, start: _Reading) -> tuple[_Reading, jax.Array]:
    """One device's reading at x, in `start.gradient`, and at θ, the anchor."""
    x, first = start.gradient, step.rates
    own = tree.where(first, x, step.anchor)
    loss, gradient, noise = _noise_at(step, x)
    _, _, own_noise = _noise_at(step, own)
    loud = square(own_noise)
    # Where all samples say the same, the way of the device itself.
    way = tree.where(loud > 0, own_noise, gradient)

    def at(params):
        return step.gradient((params, own, jnp.zeros_like(loud)))[1][0]

    _, curved = jax.jvp(at, (own,), (way,))
    squares = square(gradient), square(noise), loud, dot(way, curved), square(way)
    return _Reading(gradient, *squares), loss


def _noise_at(step, model):
    """The loss, g, and u: around g, as the signs of few samples do not cancel."""
    tilt = jnp.zeros((), jnp.result_type(*jax.tree.leaves(model)))
    loss, (gradient, twin, sign) = step.gradient((model, model, tilt))
    noise = jax.tree.map(lambda u, g: u - sign.astype(g.dtype) * g, twin, gradient)
    return loss, gradient, noise


def _blank(start, anchor):
    del anchor
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(start)))
    return _Reading(start, *[zero] * (len(_Reading._fields) - 1))


def _split(reading):
    return reading.gradient, reading._replace(gradient=None)


def ratio(number: jax.Array, over: jax.Array) -> jax.Array:
    """number / over; 0 where nothing can be said, `over` not being above 0."""
    return jnp.where(over > 0, number / jnp.where(over > 0, over, 1), 0)


def dot(one: Params, other: Params) -> jax.Array:
    """`[]`: sum of the products of all numbers of two models."""
    leaves = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(one)))
    return sum((jnp.vdot(a, b) for a, b in leaves), start=zero)


def square(model: Params) -> jax.Array:
    """`[]`: sum of the squares of all numbers of a model."""
    return dot(model, model)
