"""How far server and teams go: further while rounds agree, back where it was too far.

The residual is the way of x to the teams' mean, as if they had gone all of theirs; x
goes `length` of it. Two residuals in a row are a secant: on a quadratic the part of the
last that is left, their agreement, is 1 - β·L_F, and below -1 is divergence.
docs/permfl_auto.md has what was measured. Of the teams, the last two steps of w in a
round are such a secant.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import tree
from permfl_jax.spreads import ratio
from permfl_jax.types import Params

# Agreement of two rounds above which x may go further: there, the next one would go
# half of the way that is left.
_DAMPED = 0.5
# The length changes by at most so much in a round, down and up.
_SLOWER, _FASTER = 0.5, 1.5
# A residual this many times longer (squared) than the last has grown, whatever its way.
_GROWN = 4.0
# The most that a + b may be: below 2 every direction contracts where devices go 0 to 1
# of the way to their optima.
MOST_RELAXED = 1.9


class Reach(NamedTuple):
    """What the server knows of its own steps.

    Attributes:
      residual: the last one; leaves `[...]`.
      length: `[]`, the part of it that x went.
      agreement: `[]`, of residuals with those before them, smoothed; 1 at first.
      beyond: `[]`, the part of it that x went further than plain averaging.
      worst: `[]`, the highest loss that x had.
    """

    residual: Params
    length: jax.Array
    agreement: jax.Array
    beyond: jax.Array
    worst: jax.Array


def begin(params: Params) -> Reach:
    """Before the first round: all of the way."""
    one = jnp.ones((), jnp.result_type(*jax.tree.leaves(params)))
    start = jax.tree.map(jnp.zeros_like, params)
    return Reach(start, one, one, jnp.zeros_like(one), jnp.full_like(one, -jnp.inf))


def after(reach: Reach, residual: Params, least: jax.Array, memory: jax.Array) -> Reach:
    """How far x goes now, by how this residual agrees with the last.

    A residual of 0, where nothing arrived, tells nothing; averages of absent teams' old
    models hide that.

    Args:
      reach: with the last residual.
      residual: leaves `[...]`.
      least: `[]`, plain averaging: the length never falls below.
      memory: `[]`, weight of earlier agreement.
    """
    before, now = tree.square(reach.residual), tree.square(residual)
    agreement = ratio(tree.dot(residual, reach.residual), before)
    factor = jnp.where(now > _GROWN * before, _SLOWER, stretch(agreement))
    first = (before == 0) | (now == 0)
    keep = memory.astype(agreement.dtype)
    smooth = keep * reach.agreement + (1 - keep) * jnp.clip(agreement, -1, 1)
    length = jnp.maximum(jnp.where(first, 1, factor) * reach.length, least)
    return reach._replace(
        residual=tree.where(now == 0, reach.residual, residual),
        length=length,
        agreement=jnp.where(first, reach.agreement, smooth),
        beyond=length - least,
    )


def stretch(agreement: jax.Array) -> jax.Array:
    """By what to multiply a step size whose steps agree so with those before them.

    Along one direction the agreement is 1 less the step size times the curvature: the
    next is to agree by 0 where this one turned back, by 1/2 where it went on and on.
    """
    damped = jnp.clip(agreement, 0, _DAMPED)
    factor = (1 - damped) / jnp.maximum(1 - agreement, _DAMPED / _FASTER)
    return jnp.maximum(factor, _SLOWER)


def relaxed(relaxation: jax.Array, along: jax.Array, square: jax.Array) -> jax.Array:
    """a + b for the next round: 1, a mean of devices and server, to 1.9.

    Args:
      relaxation: `[]`, a + b of this one.
      along: `[m]`, inner product of each team's last step with the one before.
      square: `[m]`, square of the one before.
    """
    agreement = ratio(along.sum(), square.sum())
    return jnp.clip(stretch(agreement) * relaxation, 1, MOST_RELAXED)


def look(
    reach: Reach, server: Params, loss: jax.Array
) -> tuple[jax.Array, Params, Reach]:
    """Whether x went too far; x, back at plain averaging if so; and the reach there.

    Too far is where the loss is higher than it ever was, or no number, and x went
    further than plain averaging.

    Args:
      reach: of the step to here.
      server: x, leaves `[...]`.
      loss: `[]`, at x.
    """
    far = (reach.beyond > 0) & ~(loss <= reach.worst)
    nearer = jax.tree.map(
        lambda x, r: x - reach.beyond.astype(x.dtype) * r, server, reach.residual
    )
    back = reach._replace(
        length=reach.length - reach.beyond, beyond=jnp.zeros_like(reach.beyond)
    )
    here = reach._replace(worst=jnp.maximum(reach.worst, loss))
    return far, tree.where(far, nearer, server), tree.where(far, back, here)
