"""Devices under one server, without teams: what FedAvg and its relatives share.

Such a method takes its K·L steps of a round in one exchange, so that it computes as
much as a method with teams. Who acts is drawn as there (teams, then devices of each),
once a round; means are over all devices that act, whatever their team.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import keys, local, tree, uploads, weighting
from permfl_jax.cohort import Cohort
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rule, proximal
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation, LossFn, Metrics, Params, State
from permfl_jax.uploads import Exchange, Memory


def draw(
    sampler: Sampler, key: jax.Array, round_: jax.Array, federation: Federation
) -> Cohort:
    """Who acts in a global round, as one team.

    Args:
      sampler: how many.
      key: the key of the run.
      round_: `[]` int32, t.
      federation: the data.
    """
    draw_key = keys.participation_key(key, round_)
    teams = sampler.draw_teams(draw_key)
    return sampler.draw_devices(draw_key, jnp.int32(0), teams, federation).as_one_team()


def to_all(model: Params) -> Shared:
    """The server's model, for every device of a cohort that is one team."""
    return Shared(tree.stack(model, 1))


def of_one(models: Params) -> Params:
    """Leaves `[1, ...]`, the mean of the only team, to `[...]`."""
    return jax.tree.map(lambda x: x[0], models)


def mean(schedule: Schedule, federation: Federation, cohort: Cohort, rows: Params):
    """Weighted mean over the devices that act: leaves `[A, ...]` to `[...]`."""
    weight = cohort.weights(weighting.device_weights(schedule, federation))
    return of_one(cohort.team_mean(rows, weight, 1))


def mean_sent(
    schedule: Schedule,
    federation: Federation,
    cohort: Cohort,
    rows: Params,
    exchange: Exchange,
) -> tuple[Params, Memory | None]:
    """As `mean`, of what arrives of models that devices send, and their memory.

    Args:
      schedule: weights; code and loss.
      federation: the data.
      cohort: who acts, as one team.
      rows: leaves `[A, ...]`.
      exchange: from `sending`.
    """
    weight = cohort.weights(weighting.device_weights(schedule, federation))
    model, memory = uploads.team_mean(
        schedule, federation, cohort, rows, weight, 1, exchange
    )
    return of_one(model), memory


def sending(key: jax.Array, state: State) -> Exchange:
    """The only one of a round, with a server that has `state.server`.

    Args:
      key: the key of the run.
      state: before the round.
    """
    return Exchange(key, state.round, 0, tree.stack(state.server, 1), state.uploads)


def no_device_state(params: Params, num_devices: int, num_teams: int) -> State:
    """The state of a method that has a global model and nothing else."""
    del num_teams
    return State(
        round=jnp.int32(0),
        cursor=jnp.zeros(num_devices, jnp.int32),
        device=None,
        team=None,
        server=params,
    )


def _itself(hparams):
    return hparams


class Averaging(NamedTuple):
    """x <- mean of what devices make of x: FedAvg, with any rule for the steps.

    Attributes:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights.
      sampler: who takes part.
      rule: what a device does in one step.
      rates: from the numbers of the method to those of the rule.
      pulled: the rule is given x as anchor.
      batches: mini-batches that one step sees.
    """

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler
    rule: Rule = proximal
    rates: Callable[[Any], Any] = _itself
    pulled: bool = False
    batches: int = 1

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        """The server at `params`."""
        state = no_device_state(params, num_devices, num_teams)
        return uploads.with_memory(state, self.schedule, self.sampler, params)

    def steps(self, key: jax.Array, hparams: Any, federation: Federation) -> Steps:
        """The K·L steps of a round; `key` from `keys.batch_key`."""
        return Steps(
            self.loss_fn,
            self.schedule,
            key,
            self.rates(hparams),
            federation,
            self.rule,
            self.schedule.steps_per_round,
            self.batches,
        )

    def round(
        self, key: jax.Array, hparams: Any, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        """One global round."""
        cohort = draw(self.sampler, key, state.round, federation)
        steps = self.steps(keys.batch_key(key), hparams, federation)
        weight = cohort.weights(weighting.device_weights(self.schedule, federation))
        before, server = cohort.take(state.cursor), to_all(state.server)
        anchor = server if self.pulled else None
        model, _, loss, memory = uploads.train_mean(
            *(steps, cohort, before, server, anchor, weight, 1), sending(key, state)
        )
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, before + steps.taken),
            server=of_one(model),
            uploads=memory,
        )
        return state, {"device/loss": cohort.mean(loss).mean()}

    def adapted(
        self,
        key: jax.Array,
        rates: Any,
        server: Params,
        federation: Federation,
        cohort: Cohort,
        count: int,
        anchored: bool = False,
    ) -> Params:
        """Devices of a cohort after `count` plain steps from the server's model.

        Args:
          key: the key of the run.
          rates: `rules.Rates` of these steps.
          server: x, leaves `[...]`.
          federation: the data.
          cohort: which devices, of any teams.
          count: steps.
          anchored: they are pulled to x.

        Returns:
          Leaves `[A, ...]`.
        """
        steps = Steps(
            self.loss_fn,
            self.schedule,
            keys.batch_key(keys.personalize_key(key)),
            rates,
            federation,
            count=count,
        )
        start, cursor = to_all(server), jnp.zeros_like(cohort.slot)
        anchor = start if anchored else None
        return local.train(steps, cohort.as_one_team(), cursor, start, anchor)[0]
