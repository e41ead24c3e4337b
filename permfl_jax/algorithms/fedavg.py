"""FedAvg: one model, averaged over what devices make of it.

    min_x Σ_n p_n f_n(x)      y_n = K·L SGD steps from x;  x <- Σ_n p_n y_n

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, arXiv:1602.05629. Evaluated: GM = x.

A device takes the K·L steps of a global round in one exchange, as many as in a method
with teams; `--team_steps=1` gives L. The default is PerMFL's α.
"""

from permfl_jax import flat
from permfl_jax.participation import Sampler
from permfl_jax.rules import StepSize
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, LossFn

HParams = StepSize


def fedavg(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Federated averaging.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule codes uploads of teams.
    """
    schedule.require_uploads("fedavg", "device")
    method = flat.Averaging(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)
