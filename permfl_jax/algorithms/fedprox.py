"""FedProx: FedAvg whose devices are pulled to the model they started from.

    y <- y - α(∇f_n(y) + μ(y - x)), K·L times from x;  x <- Σ_n p_n y_n

Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020,
arXiv:1812.06127. μ = 0 is FedAvg. Evaluated: GM = x.

The paper tries μ = 0.001, 0.01, 0.1 and 1; the default is 0.1, and PerMFL's α.
"""

import dataclasses

import jax.numpy as jnp

from permfl_jax import flat
from permfl_jax import hparams as checks
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, LossFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: α.
      device_prox: μ, pull to the global model.
    """

    device_lr: float = 0.01
    device_prox: float = 0.1

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("device_prox", self.device_prox)

    def traced(self) -> Rates:
        """The numbers that `Algorithm.round` takes."""
        return Rates(
            *(jnp.asarray(x, float) for x in (self.device_lr, self.device_prox))
        )


def fedprox(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Federated averaging with a proximal term.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule codes uploads of teams.
    """
    schedule.require_uploads("fedprox", "device")
    method = flat.Averaging(loss_fn, schedule, sampler, pulled=True)
    return Algorithm(method.init, method.round)
