"""Other ways to choose pulls while training, to compare PerMFL-auto with.

balanced: as in ADMM with varying penalties: a pull doubles where a tier is more than
ten times further from the one above than that one moved in the round, and halves where
it is less than a tenth. Source: Boyd et al., "Distributed Optimization and Statistical
Learning via ADMM", 2011, section 3.4.1; for PerMFL's tiers, ours.

annealed: pulls fall by the same factor in every round, from large to a hundredth.

Both take the safe step sizes η = 1/(λ+γ), β = 1/γ, and λ is at most 1/(2α). They are
here to be compared with, no methods of the package.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import algorithms, traffic, tree
from permfl_jax import hparams as checks
from permfl_jax.algorithms.permfl import Gains, PerMFL
from permfl_jax.types import Algorithm, Params, State

_FAR, _FACTOR = 10.0, 2.0  # Boyd's μ and τ
_LEAST = 0.01


class Numbers(NamedTuple):
    """Where the pulls begin.

    Attributes:
      device_lr: α.
      device_prox: λ at first.
      team_prox: γ at first.
      decay: of annealed pulls, per round.
    """

    device_lr: jax.Array
    device_prox: jax.Array
    team_prox: jax.Array
    decay: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: α.
      device_prox: λ at first.
      team_prox: γ at first.
      decay: of annealed pulls, per round.
    """

    device_lr: float = 0.01
    device_prox: float = 0.5
    team_prox: float = 1.5
    decay: float = 0.9

    def __post_init__(self):
        for field in dataclasses.fields(self):
            checks.require(field.name, getattr(self, field.name), above=0)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        return Numbers(*(jnp.asarray(x, float) for x in vars(self).values()))


class Scale(NamedTuple):
    """What `State.extra` holds; no field is called `device`, which has rows of devices.

    Attributes:
      of_device: of λ, over its first value.
      of_team: of γ.
      seen: what PerMFL keeps there.
    """

    of_device: jax.Array
    of_team: jax.Array
    seen: Any


def _annealed(numbers, before, after, federation):
    """The factors after a round, from the round before and after."""
    del federation
    now = jnp.maximum(numbers.decay ** after.round.astype(float), _LEAST)
    return before.extra._replace(of_device=now, of_team=now)


def _balanced(numbers, before, after, federation):
    del numbers
    scale = before.extra
    own = tree.take(after.team, federation.team)
    server = tree.stack(after.server, len(jax.tree.leaves(after.team)[0]))
    return scale._replace(
        of_device=scale.of_device
        * _factor(_apart(after.device, own), _apart(after.team, before.team)),
        of_team=scale.of_team
        * _factor(
            _apart(after.team, server),
            _apart(tree.stack(after.server, 1), tree.stack(before.server, 1)),
        ),
    )


def _apart(ours: Params, theirs: Params) -> jax.Array:
    """Root of the mean over rows of the squared distance."""
    squares = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), ours, theirs)
    return jnp.sqrt(sum(jax.tree.leaves(squares)) / len(jax.tree.leaves(ours)[0]))


def _factor(behind, moved):
    grow, shrink = behind > _FAR * moved, behind * _FAR < moved
    return jnp.where(grow, _FACTOR, jnp.where(shrink, 1 / _FACTOR, 1.0))


def _rescaled(rule: Callable[..., Scale]) -> Callable[..., Algorithm]:
    """PerMFL whose pulls a rule changes after every round."""

    def factory(loss_fn, schedule, sampler):
        inner = PerMFL(loss_fn, schedule, sampler)

        def init(params, num_devices, num_teams):
            state = inner.init(params, num_devices, num_teams)
            one = jnp.ones((), float)
            return state._replace(extra=Scale(one, one, state.extra))

        def gains(numbers, scale):
            # Half of what a step size can take; ADMM solves its parts exactly.
            pull = jnp.minimum(
                numbers.device_prox * scale.of_device, 0.5 / numbers.device_lr
            )
            team_pull = numbers.team_prox * scale.of_team
            both = pull + team_pull
            one = jnp.ones_like(both)
            return Gains(
                numbers.device_lr, pull, pull / both, team_pull / both, to_teams=one
            )

        def round_(key, numbers, state: State, federation):
            scale = state.extra
            plain = state._replace(extra=scale.seen)
            after, metrics = inner.round(key, gains(numbers, scale), plain, federation)
            scale = rule(numbers, state, after, federation)
            return after._replace(extra=scale._replace(seen=after.extra)), metrics

        def personalize(key, numbers, state, federation, cohort):
            scale = state.extra
            plain = state._replace(extra=scale.seen)
            pulls = gains(numbers, scale)
            return inner.personalize(key, pulls, plain, federation, cohort)

        current = sampler.full and schedule.keep_personal
        return Algorithm(init, round_, None if current else personalize)

    return factory


RIVALS = {
    "permfl_annealed": algorithms.Method(
        _rescaled(_annealed), HParams, traffic.three_tier
    ),
    "permfl_balanced": algorithms.Method(
        _rescaled(_balanced), HParams, traffic.three_tier
    ),
}


def get(name: str) -> algorithms.Method:
    """A method of the registry, or one of these.

    Raises:
      InputError: no such method.
    """
    return RIVALS[name] if name in RIVALS else algorithms.get(name)
