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

from permfl_jax.spreads import Spreads

# 2^-40 of the interval.
_HALVINGS = 40
# A team goes at least so far. Where teams do not differ the best is 0, and nobody would
# ever tell the server anything; 0.2 costs less than 1 % of the risk with 10 devices.
_LEAST_TEAM_SHARE = 0.2
_MOST_RELAXED = 1.9


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
    return Shares(device, jnp.maximum(share, _LEAST_TEAM_SHARE))


def _part(signal, noise):
    """signal / (signal + noise); all of it where there is neither."""
    total = signal + noise
    return jnp.where(total > 0, signal / jnp.where(total > 0, total, 1), 1)


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

    Args:
      device: mean of the devices' shares.
      to_devices: a.
      to_server: b.
      steps: K.
    """
    lifted = to_devices * device
    whole = lifted + to_server
    return (1 - (1 - whole) ** steps) * lifted / whole


def device_pull(
    share: jax.Array, curvature: jax.Array, lr: jax.Array, steps: int
) -> jax.Array:
    """λ with which L steps go `share` of the way; 0 if they cannot get so far."""
    most = jnp.maximum(1 / lr - curvature, 0)  # beyond, the first step overshoots w

    def reached(pull):
        return device_share(curvature, lr, pull, steps)

    return _solve(reached, share, most)


def team_moves(
    share: jax.Array, device: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
    """(a, b) with which K rounds go `share` of the way, or as far as they can.

    a + b is 1, a mean of devices and server, but where that is too slow: then b is 0
    and a is up to 1.9, stable whatever the curvature, since devices go 0 to 1 of the
    way to their optima.
    """

    def reached(ratio):
        return team_share(device, 1 / (1 + ratio), ratio / (1 + ratio), steps)

    # Of the fixed point, which is at least as far as K rounds get.
    ratio = _solve(reached, share, device * (1 / share - 1))
    needed = (1 - (1 - share) ** (1 / steps)) / device
    enough = needed <= 1
    a = jnp.where(enough, 1 / (1 + ratio), jnp.minimum(needed, _MOST_RELAXED))
    return a, jnp.where(enough, ratio / (1 + ratio), 0)


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
