"""SCAFFOLD: FedAvg whose devices are told which way the others go.

    min_x Σ_n p_n f_n(x)

    y <- y - α(∇f_n(y) - c_n + c), K·L times from x;  c_n' = c_n - c + (x - y) / (α·K·L)
    x <- x + η_g Σ_n p_n (y_n - x);  c <- c + Σ_n p_n (c_n' - c_n)

where the second sum gives absent devices 0. Source: Karimireddy et al., "SCAFFOLD:
Stochastic Controlled Averaging for Federated Learning", ICML 2020, arXiv:1910.06378,
Algorithm 1 with option II. It ends at the optimum of Σ p_n f_n for any number of local
steps; with controls of zero it is FedAvg. Evaluated: GM = x.

A model and a control travel each way. Defaults: η_g = 1 as in the paper's experiments,
PerMFL's α.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat, keys, local, tree, weighting
from permfl_jax import hparams as checks
from permfl_jax.local import Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Step
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State


class Numbers(NamedTuple):
    """What `Algorithm.round` takes.

    Attributes:
      lr: α.
      server: η_g.
    """

    lr: jax.Array
    server: jax.Array


class Controls(NamedTuple):
    """What `State.extra` holds.

    Attributes:
      device: c_n, leaves `[D, ...]`.
      server: c, leaves `[...]`.
    """

    device: Params
    server: Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: α.
      server_lr: η_g.
    """

    device_lr: float = 0.01
    server_lr: float = 1.0

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("server_lr", self.server_lr)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        return Numbers(
            *(jnp.asarray(x, float) for x in (self.device_lr, self.server_lr))
        )


def scaffold(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Averaging with control variates.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule codes uploads.
    """
    schedule.require_uploads("scaffold")
    method = _Scaffold(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)


class _Scaffold(NamedTuple):
    """The constants of one SCAFFOLD; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        zero = jax.tree.map(jnp.zeros_like, params)
        return flat.no_device_state(params, num_devices, num_teams)._replace(
            extra=Controls(tree.stack(zero, num_devices), zero)
        )

    def round(
        self, key: jax.Array, numbers: Numbers, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        cohort = flat.draw(self.sampler, key, state.round, federation)
        count = self.schedule.steps_per_round
        steps = Steps(
            self.loss_fn,
            self.schedule,
            keys.batch_key(key),
            numbers,
            federation,
            controlled,
            count,
        )
        before, own = cohort.take((state.cursor, state.extra.device))
        common = jax.tree.map(lambda x: x[None], state.extra.server)
        shift = jax.tree.map(lambda own, c: own - c, own, common)
        model, loss = local.train(
            steps, cohort, before, flat.to_all(state.server), shift
        )
        # c_n' - c_n = (x - y) / (α·K·L) - c, whose first part is the way gone.
        gone = jax.tree.map(lambda x, y: x[None] - y, state.server, model)
        path = count * numbers.lr
        change = jax.tree.map(lambda g, c: g / path.astype(g.dtype) - c, gone, common)
        gone, mean_change = flat.mean(self.schedule, federation, cohort, (gone, change))
        weight = weighting.device_weights(self.schedule, federation)
        present = cohort.weights(weight).sum() / weight.sum()
        controls = Controls(
            cohort.put(state.extra.device, jax.tree.map(jnp.add, own, change)),
            tree.step(state.extra.server, mean_change, -present),
        )
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, before + steps.taken),
            server=tree.step(state.server, gone, numbers.server),
            extra=controls,
        )
        return state, {"device/loss": cohort.mean(loss).mean()}


def controlled(step: Step, params: Params) -> tuple[Params, jax.Array]:
    """y <- y - α(∇f(y) - (c_n - c)); the anchor is c_n - c."""
    loss, grads = step.gradient(params)
    grads = jax.tree.map(jnp.subtract, grads, step.anchor)
    return tree.step(params, grads, step.rates.lr), loss
