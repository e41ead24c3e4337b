"""What one device reads of a mini-batch: gradients with signs, curvature along them.

A rule of one step (`rules`), for `spreads.look`; what is read, and why at two models,
is told there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import tree
from permfl_jax.gradient import takes_key
from permfl_jax.rules import Step
from permfl_jax.types import LossFn, Params

# What the samples of a batch count in the loss by `params`, and in that by `twin`.
_ALL, _HALF, _REST = 0, 1, 2
# Signs that cancel leave roundings, relative to the gradient.
_ROUNDING = 1e-6


class Reading(NamedTuple):
    """Of one device: g at x, and squares of what it and its samples say.

    Attributes:
      gradient: g at x, leaves `[...]`; the rest `[]`.
      energy: gᵀg.
      noise: uᵀu at x.
      acted: 1, or 0 for who has no model of its own yet.
      at_own: uᵀu at θ; 0 for who has none, as all below.
      curved: vᵀHv at θ, v the gradients of half of the samples with signs, H by the
        others; 0 where all samples say the same, as the next.
      along: vᵀv.
      rough_curved: gᵀHg at θ or x, if `curved` is 0 for one of these reasons.
      rough_along: gᵀg, likewise.
      steep: |Hv|², as `curved`.
      rough_steep: |Hg|², as `rough_curved`.
      travel_curved: δᵀ(g(θ) - g(x)), δ = θ - x; 0 for who has no θ, as the next.
      travel_along: δᵀδ.
    """

    gradient: Params
    energy: jax.Array
    noise: jax.Array
    acted: jax.Array
    at_own: jax.Array
    curved: jax.Array
    along: jax.Array
    rough_curved: jax.Array
    rough_along: jax.Array
    steep: jax.Array
    rough_steep: jax.Array
    travel_curved: jax.Array
    travel_along: jax.Array


def signed(loss_fn: LossFn) -> LossFn:
    """The loss at `(params, twin, 0, part)`: its gradients are of three kinds.

    By `params` it is the ordinary one; by `twin`, each sample's has a random sign; by
    `tilt` it is the mean sign. With `_HALF` the signs of a random half are 0; with
    `_REST` only the other half counts in `params`, twice.
    """
    random = takes_key(loss_fn)

    def loss(
        point: tuple[Params, Params, jax.Array, jax.Array], batch: Any, key: jax.Array
    ):
        params, twin, tilt, part = point
        sign_key, own_key = jax.random.split(key)
        more = (own_key,) if random else ()
        straight = loss_fn(params, batch, *more)
        sign = jax.random.rademacher(sign_key, straight.shape, straight.dtype)
        half_key = jax.random.fold_in(sign_key, 1)
        half = jax.random.bernoulli(half_key, shape=straight.shape)
        sign = jnp.where(half | (part != _HALF), sign, 0)
        counts = jnp.where(part == _REST, jnp.where(half, 0, 2), 1)
        straight *= counts.astype(straight.dtype)
        again = loss_fn(twin, batch, *more)
        # Of the twin the gradient alone: the value stays that at `params`.
        return straight + sign * (again - jax.lax.stop_gradient(again) + tilt)

    return loss


def read(step: Step, start: Reading) -> tuple[Reading, jax.Array]:
    """One device's reading at x, in `start.gradient`, and at θ, the anchor."""
    x, new = start.gradient, step.rates
    own = tree.where(new, x, step.anchor)
    loss, gradient, _, noise = _noise_at(step, x, _ALL)
    _, own_gradient, signed_half, half_noise = _noise_at(step, own, _HALF)
    travel, steeper = (
        jax.tree.map(jnp.subtract, there, here)
        for there, here in ((own, x), (own_gradient, gradient))
    )
    energy, along, at_own = map(tree.square, (gradient, signed_half, half_noise))
    heard = ~new & (at_own > _ROUNDING**2 * energy)
    # Not around g, which hangs on the other half.
    way = tree.where(heard, signed_half, gradient)
    # Samples that are in u too would make H too large along it, by tr H / r.
    part = jnp.where(heard, _REST, _ALL).astype(along.dtype)

    def at(params):
        return step.gradient((params, own, jnp.zeros_like(along), part))[1][0]

    _, change = jax.jvp(at, (own,), (way,))
    curved, steep = tree.dot(way, change), tree.square(change)
    none = jnp.zeros_like(along)
    return Reading(
        gradient,
        energy,
        tree.square(noise),
        acted=jnp.where(new, none, 1),
        at_own=jnp.where(new, none, 2 * at_own),
        curved=jnp.where(heard, curved, none),
        along=jnp.where(heard, along, none),
        rough_curved=jnp.where(heard, none, curved),
        rough_along=jnp.where(heard, none, energy),
        steep=jnp.where(heard, steep, none),
        rough_steep=jnp.where(heard, none, steep),
        travel_curved=tree.dot(travel, steeper),
        travel_along=tree.square(travel),
    ), loss


def _noise_at(step, model, part):
    """The loss, g, the mean with signs, and u: around g, as few signs do not cancel."""
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(model)))
    loss, found = step.gradient((model, model, zero, zero + part))
    gradient, twin, sign, _ = found
    noise = jax.tree.map(lambda u, g: u - sign.astype(g.dtype) * g, twin, gradient)
    return loss, gradient, twin, noise


def blank(start: Params, anchor: Params) -> Reading:
    """What is known before: x."""
    del anchor
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(start)))
    return Reading(start, *[zero] * (len(Reading._fields) - 1))


def split(reading: Reading) -> tuple[Params, Reading]:
    """What is averaged in the team, and what stays."""
    return reading.gradient, reading._replace(gradient=None)
