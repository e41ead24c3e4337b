"""Per-FedAvg, first order: a global model that one step makes personal.

    min_x Σ_n p_n f_n(x - α∇f_n(x))

    u = y - α∇f_n(y; B₁);  y <- y - β∇f_n(u; B₂), K·L times from x;  x <- Σ_n p_n y_n

Source: Fallah, Mokhtari, Ozdaglar, "Personalized Federated Learning with Theoretical
Guarantees", NeurIPS 2020, arXiv:2002.07948; the term with the Hessian is left out
(FO). A step takes two gradients, on two mini-batches. α = 0 is FedAvg with rate β on
every second mini-batch. Evaluated: PM = x - α∇f_n(x) on training samples, made when it
is scored (PM_adapted), GM = x.

Defaults: α and β of the pFedMe authors' runs lie in 0.005 to 0.03 and 0.001 to 0.003.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat, tree
from permfl_jax import hparams as checks
from permfl_jax.cohort import Cohort
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates, Step
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Params, State


class Numbers(NamedTuple):
    """What `Algorithm.round` and `personalize` take.

    Attributes:
      lr: β.
      adapt: α.
    """

    lr: jax.Array
    adapt: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: β, step size of training.
      adapt_lr: α, step size of the one step that makes a model personal.
    """

    device_lr: float = 0.003
    adapt_lr: float = 0.03

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("adapt_lr", self.adapt_lr)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        return Numbers(
            *(jnp.asarray(x, float) for x in (self.device_lr, self.adapt_lr))
        )


def perfedavg(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """First-order model-agnostic meta-learning with federated averaging.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule codes uploads of teams.
    """
    schedule.require_uploads("perfedavg", "device")
    method = flat.Averaging(loss_fn, schedule, sampler, meta_step, batches=2)

    def personalize(
        key: jax.Array,
        numbers: Numbers,
        state: State,
        federation: Federation,
        cohort: Cohort,
    ) -> Params:
        """One step of every device of the cohort from the global model."""
        rates = Rates(numbers.adapt, jnp.zeros_like(numbers.adapt))
        return method.adapted(key, rates, state.server, federation, cohort, 1)

    return Algorithm(method.init, method.round, personalize)


def meta_step(step: Step, params: Params) -> tuple[Params, jax.Array]:
    """y <- y - β∇f(y - α∇f(y; B₁); B₂); the loss is that before the step."""
    loss, inner = step.gradient(params, 0)
    ahead = tree.step(params, inner, step.rates.adapt)
    _, outer = step.gradient(ahead, 1)
    return tree.step(params, outer, step.rates.lr), loss
