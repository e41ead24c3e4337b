"""FedAvg and then some steps of every device on its own: the cheap personal baseline.

    x by FedAvg;  PM: θ_n = L SGD steps from x on the device's own samples

Source: Wang et al., "Federated Evaluation of On-device Personalization",
arXiv:1910.10252. The global model is FedAvg's to the bit. Evaluated: PM = θ_n, made
when it is scored (PM_adapted), GM = x.

Defaults: both step sizes are PerMFL's α.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat
from permfl_jax import hparams as checks
from permfl_jax.cohort import Cohort
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Params, State


class Numbers(NamedTuple):
    """What `Algorithm.round` and `personalize` take.

    Attributes:
      training: of the steps before the average.
      tuning: of the steps after training.
    """

    training: Rates
    tuning: Rates


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: α, while training.
      personal_lr: α, while fine-tuning.
    """

    device_lr: float = 0.01
    personal_lr: float = 0.01

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("personal_lr", self.personal_lr, above=0)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        zero = jnp.asarray(0.0, float)
        return Numbers(
            Rates(jnp.asarray(self.device_lr, float), zero),
            Rates(jnp.asarray(self.personal_lr, float), zero),
        )


def finetune(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Federated averaging with personal models.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part in training.

    Raises:
      InputError: the schedule codes uploads of teams.
    """
    schedule.require_uploads("finetune", "device")
    method = flat.Averaging(loss_fn, schedule, sampler, rates=_training)

    def personalize(
        key: jax.Array,
        numbers: Numbers,
        state: State,
        federation: Federation,
        cohort: Cohort,
    ) -> Params:
        """L steps of every device of the cohort from the global model."""
        return method.adapted(
            key, numbers.tuning, state.server, federation, cohort, schedule.device_steps
        )

    return Algorithm(method.init, method.round, personalize)


def _training(numbers):
    return numbers.training
