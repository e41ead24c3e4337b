"""How far devices and teams are apart, and how noisy that is: one look a round.

Everybody who acts reads two gradients of one mini-batch at the same point x: the mean
over its samples, g, and one with random signs before the samples, u. The first differs
between devices because their optima differ AND because samples are few; the second
knows only of the samples. So the second is what has to be subtracted from the spread of
the first.

At x samples also differ because x does not suit the device. That goes away as it
learns, so what its samples are worth, and the curvature along their noise, are read at
its own model θ, by a second u; and so is the curvature along the way from x to θ, which
is where devices differ. Nothing is known of that before devices have acted.
docs/permfl_auto.md has the derivation.

All spreads are those of gradients, h² times those of optima; only ratios are used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import keys, local, placement, reading, tree, weighting
from permfl_jax.cohort import Cohort
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
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
      noise: r u² at θ; `freedom` times the variance between the samples of a device.
      freedom: 1 - 1/r, of devices that have acted.
      curved: uᵀHu at θ, H by other samples than u; mean over devices.
      energy: uᵀu, likewise.
      rough_curved: gᵀHg at x of devices that have no u: new ones, or all samples alike.
      rough_energy: gᵀg, likewise.
      steep: |Hu|², as `curved`.
      rough_steep: |Hg|², as `rough_curved`.
      travel_curved: δᵀ(g(θ) - g(x)), δ = θ - x, of devices that have acted.
      travel_energy: δᵀδ, likewise.
    """

    device: jax.Array
    team: jax.Array
    noise: jax.Array
    freedom: jax.Array
    curved: jax.Array
    energy: jax.Array
    rough_curved: jax.Array
    rough_energy: jax.Array
    steep: jax.Array
    rough_steep: jax.Array
    travel_curved: jax.Array
    travel_energy: jax.Array

    @property
    def sample(self) -> jax.Array:
        """Variance between the samples of a device at its own model; 0 if not known."""
        return ratio(self.noise, self.freedom)

    @property
    def curvature(self) -> jax.Array:
        """h: along the noise, or along g as long as there is none."""
        return jnp.where(
            self.energy > 0,
            ratio(self.curved, self.energy),
            ratio(self.rough_curved, self.rough_energy),
        )

    @property
    def steepest(self) -> jax.Array:
        """h along what H makes of the noise, or of g: nearer to the largest."""
        return jnp.where(
            self.energy > 0,
            ratio(self.steep, jnp.abs(self.curved)),
            ratio(self.rough_steep, jnp.abs(self.rough_curved)),
        )

    @property
    def softer(self) -> jax.Array:
        """h along the ways that devices have gone from x; as `curvature` before any."""
        return jnp.where(
            self.travel_energy > 0,
            ratio(self.travel_curved, self.travel_energy),
            self.curvature,
        )


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

    Or by the one before, where the next is the shorter last one of a pass.

    Costs four gradients and a product with a Hessian, about six gradients of K·L. The
    devices of a team send it a gradient; a team sends the server eighteen numbers.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: batches and weights.
      sampler: how many teams there are.
      key: of the run.
      cohort: who acts.
      cursor: `[A]` int32, number of the mini-batch; it is not used up. 0 is for those
        who have not acted, whose `own` is not looked at.
      teams: `[m]`, those that act, or `None` for all.
      server: x.
      own: θ, leaves `[A, ...]`, or `Shared` models of their teams.
      federation: the data.
    """
    steps = Steps(
        reading.signed(loss_fn),
        schedule,
        keys.batch_key(key),
        cursor == 0,
        federation,
        rule=reading.read,
        count=1,
        begin=reading.blank,
        end=reading.split,
    )
    weight = cohort.weights(weighting.device_weights(schedule, federation))
    acting = sampler.acting_teams
    at_x = Shared(tree.stack(server, acting))
    count = cohort.take(federation.train.count)
    number, seen = _whole_batch(schedule, federation.train.max_count, cursor, count)
    mean, read, loss = local.train_mean(
        steps, cohort, number, at_x, own, weight, acting
    )
    size = jax.vmap(tree.square)(mean)
    sums = _team_sums(
        *(cohort, acting, read, loss.astype(size.dtype)),
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
    freedom: jax.Array  # 1 - 1 / r
    at_own: jax.Array  # r u² at θ
    own_freedom: jax.Array  # 1 - 1 / r of those who have one
    curved: jax.Array
    along: jax.Array
    rough_curved: jax.Array
    rough_along: jax.Array
    steep: jax.Array
    rough_steep: jax.Array
    travel_curved: jax.Array
    travel_along: jax.Array
    loss: jax.Array


def _team_sums(cohort, acting, read, loss, weight, seen):
    """On several chips nothing but these sums is sent."""
    here = cohort.teams_on_chip(acting)

    def on_chip(read, loss, weight, seen, slot):
        own = cohort.own_slot(slot, here)
        share = tree.segment_share(weight, own, here, cohort.sum_over_chips)
        freedom = 1 - 1 / seen
        rows = _Sums(
            read.energy,
            share,
            1 / seen,
            share / seen,
            seen * read.noise,
            freedom,
            seen * read.at_own,
            read.acted * freedom,
            # Of r samples r - 1 pairs are of two.
            ratio(read.curved, freedom),
            read.along,
            read.rough_curved,
            read.rough_along,
            ratio(read.steep, freedom),
            read.rough_steep,
            read.travel_curved,
            read.travel_along,
            loss,
        )
        return cohort.sum_over_chips(tree.segment_sum(rows, share, own, here))

    specs = (placement.BY_DEVICE,) * 5
    return placement.per_chip(cohort.placement, on_chip, specs, cohort.team_spec)(
        read, loss, weight, seen, cohort.slot
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
        sums.at_own.sum(),
        sums.own_freedom.sum(),
        (team_share * sums.curved).sum(),
        (team_share * sums.along).sum(),
        (team_share * sums.rough_curved).sum(),
        (team_share * sums.rough_along).sum(),
        (team_share * sums.steep).sum(),
        (team_share * sums.rough_steep).sum(),
        (team_share * sums.travel_curved).sum(),
        (team_share * sums.travel_along).sum(),
    ), (team_share * sums.loss).sum()


def _whole_batch(schedule, longest, cursor, count):
    """`[A]`: number and samples of a mini-batch, not the rest of a pass; `batches`.

    All rounds then weigh alike, and the one sample of a rest would tell nothing.
    """
    if schedule.batch_size is None:
        return cursor, count
    size = min(schedule.batch_size, longest)
    in_pass = (count + size - 1) // size
    rest = (cursor % in_pass == in_pass - 1) & (in_pass * size > count) & (in_pass > 1)
    return cursor - rest.astype(cursor.dtype), jnp.minimum(size, count)


def ratio(number: jax.Array, over: jax.Array) -> jax.Array:
    """number / over; 0 where nothing can be said, `over` not being above 0."""
    return jnp.where(over > 0, number / jnp.where(over > 0, over, 1), 0)
