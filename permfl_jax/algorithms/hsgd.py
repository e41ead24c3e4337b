"""h-SGD, also HierFAVG: averages of averages, in teams under one server.

    min_x Σ_i q_i Σ_j p_ij f_ij(x)

    w_i = x;  K times: { L SGD steps of every device from w_i;  w_i <- Σ_j p_ij θ_ij }
    x <- Σ_i q_i w_i

Sources: Wang et al., "Demystifying Why Local Aggregation Helps: Convergence Analysis
of Hierarchical SGD", AAAI 2022, arXiv:2010.12998; Liu et al., "Client-Edge-Cloud
Hierarchical Federated Learning", ICC 2020, arXiv:1905.06641 (weights by samples,
L = κ₁, K = κ₂). It is PerMFL with (λ, ηλ, ηγ, βγ) = (0, 1, 0, 1). Evaluated:
TM = w_i, GM = x.

Defaults: PerMFL's α, K and L.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import aggregation, flat, keys, tree, uploads, weighting
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates, StepSize
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State
from permfl_jax.uploads import Exchange

HParams = StepSize


def hsgd(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Hierarchical averaging.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights, which teams the server averages.
      sampler: who takes part.
    """
    method = _HSGD(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)


class _HSGD(NamedTuple):
    """The constants of one h-SGD; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        state = flat.no_device_state(params, num_devices, num_teams)._replace(
            team=tree.stack(params, num_teams),
            extra=aggregation.nobody_seen(self.schedule, self.sampler),
        )
        return uploads.with_memory(state, self.schedule, self.sampler, params)

    def round(
        self, key: jax.Array, rates: Rates, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        draw_key = keys.participation_key(key, state.round)
        teams = self.sampler.draw_teams(draw_key)
        weights = weighting.device_weights(self.schedule, federation)
        steps = Steps(
            self.loss_fn, self.schedule, keys.batch_key(key), rates, federation
        )
        acting = self.sampler.acting_teams

        def team_round(carry, k):
            team, cursor, memory = carry
            cohort = self.sampler.draw_devices(draw_key, k, teams, federation)
            before = cohort.take(cursor)
            weight = cohort.weights(weights)
            team, _, loss, memory = uploads.train_mean(
                *(steps, cohort, before, Shared(team), None, weight, acting),
                Exchange(key, state.round, k, team, memory),
            )
            cursor = cohort.put(cursor, before + steps.taken)
            return (team, cursor, memory), cohort.mean(loss)

        (team, cursor, memory), losses = jax.lax.scan(
            team_round,
            (tree.stack(state.server, acting), state.cursor, state.uploads),
            jnp.arange(self.schedule.team_steps, dtype=jnp.int32),
        )
        all_team = tree.put(state.team, teams, team)
        server, seen, memory = aggregation.mean_sent(
            *(self.schedule, self.sampler, federation, team, all_team, teams),
            state.extra,
            Exchange(key, state.round, 0, state.server, memory),
        )
        state = State(state.round + 1, cursor, None, all_team, server, seen, memory)
        return state, {"device/loss": losses.mean()}
