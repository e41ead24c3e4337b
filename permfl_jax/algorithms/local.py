"""Local-only training: every device alone, the floor that any cooperation must beat.

    min_θ f_ij(θ) for each device; SGD with step size α, never reset, nothing sent.

It takes the same K·L steps per round, on the same mini-batches and with the same
participants, as the tiered methods it is a floor for. Evaluated: PM = θ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import keys, tree
from permfl_jax.local import Steps, train
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates, StepSize
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State

HParams = StepSize


def local(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Plain SGD on each device.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L and batches.
      sampler: who takes part.

    Raises:
      InputError: the schedule keeps no personal models, or codes uploads.
    """
    schedule.require_personal("local")
    schedule.require_uploads("local")
    method = _Local(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)


class _Local(NamedTuple):
    """The constants of local training; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        del num_teams
        return State(
            round=jnp.int32(0),
            cursor=jnp.zeros(num_devices, jnp.int32),
            device=tree.stack(params, num_devices),
            team=None,
            server=None,
        )

    def round(
        self, key: jax.Array, rates: Rates, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        draw_key = keys.participation_key(key, state.round)
        teams = self.sampler.draw_teams(draw_key)
        steps = Steps(
            self.loss_fn,
            self.schedule,
            keys.batch_key(key),
            rates,
            federation,
        )

        def team_round(carry, k):
            cohort = self.sampler.draw_devices(draw_key, k, teams, federation)
            params, before = cohort.take(carry)
            theta, loss = train(steps, cohort, before, params, None)
            after = before + steps.taken
            return cohort.put(carry, (theta, after)), cohort.mean(loss)

        (device, cursor), losses = jax.lax.scan(
            team_round,
            (state.device, state.cursor),
            jnp.arange(self.schedule.team_steps, dtype=jnp.int32),
        )
        state = state._replace(round=state.round + 1, cursor=cursor, device=device)
        return state, {"device/loss": losses.mean()}
