"""From spreads to pulls: how far devices and teams should go, and how they get there.

A device's best estimate lies s_d of the way from its team to its own optimum, a team's
s_t of the way from the server to its devices' mean: shrinkage in a random-effects
model, docs/permfl_auto.md. Short loops do not reach what λ and γ promise for exact
ones, so the pulls are those with which L and K steps, as they are run, go just so far.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax.reach import MOST_RELAXED
from permfl_jax.spreads import Spreads

# 2^-40 of the interval.
_HALVINGS = 40
# A team goes at least so far. Where teams do not differ the best is 0, and nobody would
# ever tell the server anything; 0.2 costs less than 1 % of the risk with 10 devices.
_LEAST_TEAM_SHARE = 0.2
# Of the curvature along the noise: what devices are at least taken to move by. Without
# any they would seem to stand still, and x would be thrown far.
_SOFTEST = 0.01


class Shares(NamedTuple):
    """Of the way to the own optimum.

    Attributes:
      device: s_d, `[D]`.
      team: s_t, `[M]`.
    """

    device: jax.Array
    team: jax.Array


def best_shares(
    spreads: Spreads,
    count: jax.Array,
    alike: jax.Array,
    team_sum: Callable[[jax.Array], jax.Array],
) -> Shares:
    """Shrinkage: of each spread, the part that is not noise.

    Args:
      spreads: of gradients.
      count: `[D]`, samples of each device.
      alike: `[]`, 1 for a share by the mean of `1/count`, 0 by each device's own.
      team_sum: sums over the devices of each team, `[D]` to `[M]`.
    """
    own = 1 / count.astype(spreads.sample.dtype)
    noise = spreads.sample * (own + alike.astype(own.dtype) * (own.mean() - own))
    between = jnp.maximum(spreads.device, 0)
    device = _part(between, noise)
    # Variance of the best mean over the devices of a team.
    precision = 1 / jnp.maximum(between + noise, jnp.finfo(noise.dtype).tiny)
    of_mean = 1 / team_sum(precision)
    if len(of_mean) == 1:  # nothing to shrink to
        return Shares(device, jnp.ones_like(of_mean))
    share = _part(jnp.maximum(spreads.team, 0), of_mean)
    return Shares(device, share)


def _part(signal, noise):
    """signal / (signal + noise); all of it where there is neither."""
    total = signal + noise
    return jnp.where(total > 0, signal / jnp.where(total > 0, total, 1), 1)


def curvatures(spreads: Spreads, lr: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h along the noise, and h along the ways that devices go.

    Args:
      spreads: what was read.
      lr: α.
    """
    least = 1e-6 / lr  # less would be lost in the rounding of 1 - αh
    h = jnp.maximum(spreads.curvature, least)
    soft = jnp.clip(spreads.softer, jnp.maximum(_SOFTEST * h, least), h)
    return h, jnp.minimum(soft, 1 / lr)


def limits(spreads: Spreads, lr: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """The most that λ and a + b may be where the loss is steep.

    With a longer λ a device's first step would overshoot w. With a + b below 2 a team
    contracts, as long as its devices go 0 to 1 of the way to their optima: an odd
    number of steps goes further where each overshoots.

    Args:
      spreads: what was read.
      lr: α.
      steps: L.
    """
    steep = lr * spreads.steepest
    furthest = jnp.clip(1 - (1 - steep) ** steps, 1, MOST_RELAXED)
    return jnp.maximum(1 - steep, 0) / lr, MOST_RELAXED / furthest


def elsewhere(share: jax.Array, here: jax.Array, there: jax.Array) -> jax.Array:
    """The share at curvature `there` under the pull that gives `share` `here`.

    Exact pulls are the same in all directions: h/(h+λ) has the odds h/λ.

    Examples:
      >>> float(elsewhere(jnp.float32(0.5), 1.0, 3.0))
      0.75
    """
    return share * there / (share * there + (1 - share) * here)


def team_elsewhere(
    share: jax.Array, device: jax.Array, here: jax.Array, there: jax.Array
) -> jax.Array:
    """As `elsewhere`, of a team: its odds are λ/γ times its devices' share; or 0.2.

    Args:
      share: `[M]`, of the teams at `here`.
      device: `[M]`, mean of their devices' shares at `here`, 0 to 1.
      here: h.
      there: another.
    """
    # elsewhere(device, here, there) / device, which is there/here for shares of 0.
    change = there / (device * there + (1 - device) * here)
    return jnp.maximum(
        elsewhere(share, jnp.ones_like(change), change), _LEAST_TEAM_SHARE
    )


def device_share(
    curvature: jax.Array, lr: jax.Array, pull: jax.Array, steps: int
) -> jax.Array:
    """a_L = (1 - (1 - α(h+λ))^L) h/(h+λ), as `theory.device_share`, traced.

    Examples:
      >>> h, lr, pull = jnp.float32(1), jnp.float32(0.5), jnp.float32(1)
      >>> float(device_share(h, lr, pull, 1))
      0.5
    """
    stiff = curvature + pull
    return (1 - (1 - lr * stiff) ** steps) * curvature / stiff


def team_share(
    device: jax.Array, to_devices: jax.Array, to_server: jax.Array, steps: int
) -> jax.Array:
    """Of the way to the devices' mean in K rounds w <- (1-a-b)w + b x + a mean(θ).

    Where a step goes too far, the next comes back: that is taken for arrived.

    Args:
      device: mean of the devices' shares.
      to_devices: a.
      to_server: b.
      steps: K.
    """
    lifted = to_devices * device
    whole = lifted + to_server
    left = jnp.maximum(1 - whole, 0) ** steps
    return (1 - left) * lifted / whole


def device_pull(
    share: jax.Array, curvature: jax.Array, lr: jax.Array, steps: int, most: jax.Array
) -> jax.Array:
    """λ with which L steps go `share` of the way; 0 if they cannot get so far.

    Args:
      share: `[D]`, wanted.
      curvature: h, `[]`.
      lr: α.
      steps: L.
      most: `[]`, that λ may be.
    """

    def reached(pull):
        return device_share(curvature, lr, pull, steps)

    return _solve(reached, share, most)


def team_moves(
    share: jax.Array, device: jax.Array, relaxation: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
    """(a, b) with which K rounds go `share` of the way, or as far as they can.

    Args:
      share: `[M]`, wanted.
      device: `[M]`, mean of the devices' shares.
      relaxation: `[]`, a + b; 1 is a mean of devices and server.
      steps: K.
    """

    def moves(ratio):
        return relaxation / (1 + ratio), relaxation * ratio / (1 + ratio)

    def reached(ratio):
        return team_share(device, *moves(ratio), steps)

    # Of the fixed point, which is at least as far as K rounds get.
    return moves(_solve(reached, share, device * (1 / share - 1)))


def _solve(reached: Callable, share: jax.Array, most: jax.Array) -> jax.Array:
    """Where the decreasing function `reached` is `share`, from 0 to `most`."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        far = reached(middle) > share
        return jnp.where(far, middle, low), jnp.where(far, high, middle)

    most = jnp.broadcast_to(most, share.shape)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(share), most))
    return (low + high) / 2
