"""pFedMe: personal models by Moreau envelopes around one global model.

    min_w Σ_n p_n min_θ { f_n(θ) + λ/2 |θ - w|² }

    R times: θ_n = S steps of size δ on f_n(θ; B) + λ/2 |θ - w_n|² from w_n, with one B;
             w_n <- w_n - η λ (w_n - θ_n)
    w <- (1 - β) w + β Σ_n p_n w_n

Source: Dinh, Tran, Nguyen, "Personalized Federated Learning with Moreau Envelopes",
NeurIPS 2020, arXiv:2006.08848, Algorithm 1. R = K and S = L of the schedule. Evaluated:
PM = θ_n (not w_n, as the authors' code does by an alias), GM = w.

What the paper leaves open: θ starts at w_n in every local round. Their code goes on
from the last θ and adds a weight decay of 0.001 that the paper does not have; ours has
neither, so that it is PerMFL with one-device teams. Defaults are theirs for MNIST:
δ = 0.1, η = 0.005, λ = 15, β = 1.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat, keys, local, rules, tree, uploads
from permfl_jax import hparams as checks
from permfl_jax.cohort import Cohort
from permfl_jax.local import Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Step
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State


class Numbers(NamedTuple):
    """What `Algorithm.round` takes.

    Attributes:
      lr: δ.
      prox: λ.
      local: ηλ, how far w_n moves towards θ_n.
      server: β.
    """

    lr: jax.Array
    prox: jax.Array
    local: jax.Array
    server: jax.Array


class Models(NamedTuple):
    """What a device carries from one local round to the next.

    Attributes:
      local: w_n.
      personal: θ_n.
    """

    local: Params
    personal: Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: δ.
      device_prox: λ.
      local_lr: η.
      server_lr: β.
    """

    device_lr: float = 0.1
    device_prox: float = 15.0
    local_lr: float = 0.005
    server_lr: float = 1.0

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("device_prox", self.device_prox)
        checks.require("local_lr", self.local_lr)
        checks.require("server_lr", self.server_lr)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        return Numbers(
            lr=jnp.asarray(self.device_lr, float),
            prox=jnp.asarray(self.device_prox, float),
            local=jnp.asarray(self.local_lr * self.device_prox, float),
            server=jnp.asarray(self.server_lr, float),
        )


def pfedme(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Algorithm 1 of pFedMe.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: R = K, S = L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule codes uploads of teams.
    """
    schedule.require_uploads("pfedme", "device")
    method = _PFedMe(loss_fn, schedule, sampler)
    up_to_date = sampler.full and schedule.keep_personal
    return Algorithm(
        method.init, method.round, None if up_to_date else method.personalize
    )


class _PFedMe(NamedTuple):
    """The constants of one pFedMe; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        kept = self.schedule.keep_personal
        state = flat.no_device_state(params, num_devices, num_teams)._replace(
            device=tree.stack(params, num_devices) if kept else None
        )
        return uploads.with_memory(state, self.schedule, self.sampler, params)

    def round(
        self, key: jax.Array, numbers: Numbers, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        cohort = flat.draw(self.sampler, key, state.round, federation)
        steps = self.steps(keys.batch_key(key), numbers, federation)
        before = cohort.take(state.cursor)
        models, loss = self.exchange(steps, cohort, before, state.server)
        mean, memory = flat.mean_sent(
            self.schedule, federation, cohort, models.local, flat.sending(key, state)
        )
        device = state.device
        if device is not None:
            device = cohort.put(device, models.personal)
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, before + steps.taken),
            device=device,
            server=tree.lerp(state.server, mean, numbers.server),
            uploads=memory,
        )
        return state, {"device/loss": cohort.mean(loss).mean()}

    def steps(self, key, numbers, federation):
        """One step is one local round, with one mini-batch."""
        rule = functools.partial(local_round, inner_steps=self.schedule.device_steps)
        count = self.schedule.team_steps
        return Steps(self.loss_fn, self.schedule, key, numbers, federation, rule, count)

    def exchange(self, steps, cohort, cursor, server):
        """w_n and θ_n after K local rounds from w, and losses."""
        start = flat.to_all(Models(server, server))
        return local.train(steps, cohort, cursor, start, None)

    def personalize(
        self,
        key: jax.Array,
        numbers: Numbers,
        state: State,
        federation: Federation,
        cohort: Cohort,
    ) -> Params:
        """θ_n of every device of the cohort, by K local rounds from w."""
        key = keys.batch_key(keys.personalize_key(key))
        steps, cursor = (
            self.steps(key, numbers, federation),
            jnp.zeros_like(cohort.slot),
        )
        models, _ = self.exchange(steps, cohort.as_one_team(), cursor, state.server)
        return models.personal


def local_round(
    step: Step, models: Models, *, inner_steps: int
) -> tuple[Models, jax.Array]:
    """θ_n by proximal steps from w_n, then w_n <- w_n - ηλ(w_n - θ_n)."""
    inner = step._replace(anchor=models.local)

    def descend(theta, _):
        return rules.proximal(inner, theta)

    theta, losses = jax.lax.scan(descend, models.local, length=inner_steps)
    return Models(
        tree.lerp(models.local, theta, step.rates.local), theta
    ), losses.mean()
