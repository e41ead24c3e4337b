"""Ditto: FedAvg, and beside it a personal model pulled to its global one.

    min_v f_n(v) + λ/2 |v - x|²  with x by FedAvg

    v_n <- v_n - α_v(∇f_n(v_n) + λ(v_n - x)), K·L times, x as it was sent

Source: Li, Hu, Beirami, Smith, "Ditto: Fair and Robust Federated Learning Through
Personalization", ICML 2021, arXiv:2012.04221, Algorithm 1. The global model is
FedAvg's to the bit. A device takes K·L steps for x and K·L for v_n, on the same
mini-batches: two gradients for one of FedAvg. Evaluated: PM = v_n, GM = x.

Defaults: λ = 1, the middle of the paper's 0.1, 1 and 2; step sizes as PerMFL's α.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat, keys, tree, uploads, weighting
from permfl_jax import hparams as checks
from permfl_jax.local import Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates, Step, proximal
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State


class Models(NamedTuple):
    """What a device carries from step to step.

    Attributes:
      sent: y, which starts as x.
      own: v.
    """

    sent: Params
    own: Params

    @classmethod
    def of(cls, own: Params, server: Params) -> "Models":
        """Before the first step."""
        return cls(server, own)

    def parts(self) -> tuple[Params, Params]:
        """What is sent, and what is kept."""
        return self.sent, self.own


class Numbers(NamedTuple):
    """What `Algorithm.round` takes.

    Attributes:
      training: of the steps for the global model.
      personal: of the steps for the personal models.
    """

    training: Rates
    personal: Rates


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: α, of the global model.
      personal_lr: α_v, of the personal models.
      device_prox: λ.
    """

    device_lr: float = 0.01
    personal_lr: float = 0.01
    device_prox: float = 1.0

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("personal_lr", self.personal_lr, above=0)
        checks.require("device_prox", self.device_prox)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        lr, personal_lr, prox, zero = (
            jnp.asarray(x, float)
            for x in (self.device_lr, self.personal_lr, self.device_prox, 0)
        )
        return Numbers(Rates(lr, zero), Rates(personal_lr, prox))


def ditto(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Algorithm 1 of Ditto.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule keeps no personal models, or codes uploads of teams.
    """
    schedule.require_personal("ditto")
    schedule.require_uploads("ditto", "device")
    method = _Ditto(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)


class _Ditto(NamedTuple):
    """The constants of one Ditto; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        state = flat.no_device_state(params, num_devices, num_teams)._replace(
            device=tree.stack(params, num_devices)
        )
        return uploads.with_memory(state, self.schedule, self.sampler, params)

    def round(
        self, key: jax.Array, numbers: Numbers, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        cohort = flat.draw(self.sampler, key, state.round, federation)
        personal, before = cohort.take((state.device, state.cursor))
        steps = self.steps(keys.batch_key(key), numbers, federation)
        weight = cohort.weights(weighting.device_weights(self.schedule, federation))
        sent = flat.to_all(state.server)
        model, personal, losses, memory = uploads.train_mean(
            *(steps, cohort, before, personal, sent, weight, 1),
            flat.sending(key, state),
        )
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, before + steps.taken),
            device=cohort.put(state.device, personal),
            server=flat.of_one(model),
            uploads=memory,
        )
        return state, {
            "device/loss": cohort.mean(losses[:, 0]).mean(),
            "device/personal_loss": cohort.mean(losses[:, 1]).mean(),
        }

    def steps(self, key, numbers, federation):
        """The K·L steps of a round, of which a device sends y and keeps v."""
        return Steps(
            self.loss_fn,
            self.schedule,
            key,
            numbers,
            federation,
            both,
            self.schedule.steps_per_round,
            begin=Models.of,
            end=Models.parts,
        )


def both(step: Step, models: Models) -> tuple[Models, jax.Array]:
    """y <- y - α∇f(y), and v <- v - α_v(∇f(v) + λ(v - x)); their losses, `[2]`."""
    rates = step.rates
    loss, grads = step.gradient(models.sent)
    sent = tree.step(models.sent, grads, rates.training.lr)
    own, personal_loss = proximal(step._replace(rates=rates.personal), models.own)
    return Models(sent, own), jnp.stack([loss, personal_loss])
