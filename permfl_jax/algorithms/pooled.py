"""Pooled training: one model on all samples, the ceiling of what a global model can do.

    x <- x - α Σ_n p_n ∇f_n(x), K·L times a round; every device lends one mini-batch

It is SGD on the union of the samples that a centre could do if it had them; as many
gradients are computed as by the federated methods, and all of them at the same x. With
`--weights=samples` the objective is the mean over all samples. When few devices take
part, the samples of the others are not there. Nothing in it is federated, so nothing is
counted as sent. Evaluated: GM = x. The default is PerMFL's α.
"""

from typing import NamedTuple

import jax

from permfl_jax import flat, keys, local, weighting
from permfl_jax.local import Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates, StepSize
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, State

HParams = StepSize


def pooled(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Stochastic gradient descent on everybody's samples.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: whose samples are there.

    Raises:
      InputError: the schedule codes uploads.
    """
    schedule.require_uploads("pooled")
    return Algorithm(flat.no_device_state, _Pooled(loss_fn, schedule, sampler).round)


class _Pooled(NamedTuple):
    """The constants of pooled training; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def round(
        self, key: jax.Array, rates: Rates, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        cohort = flat.draw(self.sampler, key, state.round, federation)
        weight = cohort.weights(weighting.device_weights(self.schedule, federation))
        steps = Steps(
            self.loss_fn,
            self.schedule,
            keys.batch_key(key),
            rates,
            federation,
            count=1,
        )

        def step(carry, _):
            model, cursor = carry
            model, _, loss = local.train_mean(
                steps, cohort, cursor, flat.to_all(model), None, weight, 1
            )
            return (flat.of_one(model), cursor + steps.taken), cohort.mean(loss)

        (server, after), losses = jax.lax.scan(
            step,
            (state.server, cohort.take(state.cursor)),
            length=self.schedule.steps_per_round,
        )
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, after),
            server=server,
        )
        return state, {"device/loss": losses.mean()}
