"""pFedBayes: a distribution of weights for every device, near one that all share.

    w* = argmin_w Σ_n p_n min_{q_n} { E_{θ ~ q_n} f_n(θ) + ζ/n_b KL(q_n ‖ w) }

    per mini-batch:  5 Adam steps on q_n of f_n(θ; B) + ζ/n_b KL(q_n ‖ w_n), θ ~ q_n
                     1 Adam step on w_n of ζ/n_b KL(q_n ‖ w_n)
    w <- Σ_n p_n w_n, the mean of (m, ρ)

Source: Zhang et al., "Personalized Federated Learning via Variational Bayesian
Inference", ICML 2022, arXiv:2206.07977. Weights are independent, N(m, σ²) each with
σ = softplus(ρ). n_b = min(n, B) samples are in a mini-batch; f_n is a mean over them.
w_n starts a round at w, and q_n where the device's last round left it. Evaluated:
PM = m of q_n, GM = m of w: the means, not an average over draws of weights.

A device takes max(1, K·L // 5) mini-batches in a round, so that it computes as many
gradients of f_n as in other methods. What the paper leaves open: every round starts
with fresh moments of Adam for q_n and for w_n. Every Adam step draws its own θ = m +
σ·noise·ε, ε ~ N(0, 1); noise = 1 is the paper, 0.001 the released code, which so hardly
draws at all. q_n and w start at the model that a run is given (the code draws m from
N(0, 0.1²)) and at ρ = -3, σ = 0.049. Were both ρ equal and held still, KL would be
|m_q - m_w|²/(2σ²), and the method like pFedMe with λ = ζ/(n_b σ²).

A model is sent as m and ρ, twice its size. Defaults are the authors': rate 0.005,
ζ = 10.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from permfl_jax import flat, keys, local, tree, weighting
from permfl_jax import hparams as checks
from permfl_jax.local import Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Step
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State

STEPS_PER_BATCH = 5  # R
_START_RHO = -3.0
_ADAM = optax.scale_by_adam()


class Numbers(NamedTuple):
    """What `Algorithm.round` takes.

    Attributes:
      lr: of all Adam steps.
      kl: ζ; as the rule gets it, ζ/n_b.
      noise: times ε.
    """

    lr: jax.Array
    kl: jax.Array
    noise: jax.Array


class Gaussian(NamedTuple):
    """Independent weights: N(mean, softplus(rho)²).

    Attributes:
      mean: m, a model.
      rho: ρ, likewise.
    """

    mean: Params
    rho: Params


class Rhos(NamedTuple):
    """What `State.extra` holds; the means are the models of their tiers.

    Attributes:
      device: ρ of q_n, leaves `[D, ...]`.
      server: ρ of w, leaves `[...]`.
    """

    device: Params
    server: Params


class Work(NamedTuple):
    """What a device carries from one mini-batch to the next.

    Attributes:
      own: q_n.
      local: w_n.
      own_adam: moments of the steps on q_n.
      local_adam: moments of the steps on w_n.
    """

    own: Gaussian
    local: Gaussian
    own_adam: optax.OptState
    local_adam: optax.OptState

    @classmethod
    def of(cls, own: Gaussian, server: Gaussian) -> "Work":
        """Before the first step."""
        return cls(own, server, _ADAM.init(own), _ADAM.init(server))

    def parts(self) -> tuple[Gaussian, Gaussian]:
        """What is sent, and what is kept."""
        return self.local, self.own


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: of all Adam steps.
      kl_weight: ζ.
      noise: standard deviation of ε.
    """

    device_lr: float = 0.005
    kl_weight: float = 10.0
    noise: float = 1.0

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("kl_weight", self.kl_weight)
        checks.require("noise", self.noise)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        values = (self.device_lr, self.kl_weight, self.noise)
        return Numbers(*(jnp.asarray(x, float) for x in values))


def pfedbayes(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Variational Bayes on every device.

    Args:
      loss_fn: `(params, batch) -> losses [B]`, negative log-likelihoods.
      schedule: K, L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule keeps no personal models, or codes uploads.
    """
    schedule.require_personal("pfedbayes")
    schedule.require_uploads("pfedbayes")
    method = _PFedBayes(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)


class _PFedBayes(NamedTuple):
    """The constants of one pFedBayes; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        rho = jax.tree.map(lambda x: jnp.full_like(x, _START_RHO), params)
        return flat.no_device_state(params, num_devices, num_teams)._replace(
            device=tree.stack(params, num_devices),
            extra=Rhos(tree.stack(rho, num_devices), rho),
        )

    def round(
        self, key: jax.Array, numbers: Numbers, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        cohort = flat.draw(self.sampler, key, state.round, federation)
        before, own, count = cohort.take(
            (
                state.cursor,
                Gaussian(state.device, state.extra.device),
                federation.train.count,
            )
        )
        steps = self.steps(keys.batch_key(key), numbers, federation, count)
        sent = flat.to_all(Gaussian(state.server, state.extra.server))
        weight = cohort.weights(weighting.device_weights(self.schedule, federation))
        server, own, loss = local.train_mean(
            steps, cohort, before, own, sent, weight, 1
        )
        server = flat.of_one(server)
        device, rho = cohort.put((state.device, state.extra.device), tuple(own))
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, before + steps.taken),
            device=device,
            server=server.mean,
            extra=Rhos(rho, server.rho),
        )
        return state, {"device/loss": cohort.mean(loss).mean()}

    def steps(self, key, numbers, federation, count):
        """One step is one mini-batch, of `count` `[A]` samples or B."""
        batch = jnp.minimum(count, self.schedule.batch_size or count)
        kl = numbers.kl / batch.astype(numbers.kl.dtype)
        return Steps(
            self.loss_fn,
            self.schedule,
            key,
            numbers._replace(kl=kl),
            federation,
            variational,
            max(1, self.schedule.steps_per_round // STEPS_PER_BATCH),
            begin=Work.of,
            end=Work.parts,
        )


def variational(step: Step, work: Work) -> tuple[Work, jax.Array]:
    """5 Adam steps on q_n, then one on w_n; the loss is the mean of f at the draws."""
    rates = step.rates

    def descend(carry, key):
        own, moments = carry
        noise = optax.tree.random_like(key, own.mean, jax.random.normal)
        noise = _times(rates.noise, noise)
        theta, back = jax.vjp(lambda own: draw(own, noise), own)
        loss, grads = step.gradient(theta)
        pull = jax.grad(divergence)(own, work.local)
        grads = tree.step(back(grads)[0], pull, -rates.kl)
        return _adam_step(own, grads, moments, rates.lr), loss

    draws = jax.random.split(step.key, STEPS_PER_BATCH)
    (own, own_adam), losses = jax.lax.scan(descend, (work.own, work.own_adam), draws)
    pull = jax.grad(divergence, argnums=1)(own, work.local)
    pull = _times(rates.kl, pull)
    moved, local_adam = _adam_step(work.local, pull, work.local_adam, rates.lr)
    return Work(own, moved, own_adam, local_adam), losses.mean()


def draw(gaussian: Gaussian, noise: Params) -> Params:
    """m + softplus(ρ)·noise."""
    return jax.tree.map(
        lambda m, rho, e: m + jax.nn.softplus(rho) * e, *gaussian, noise
    )


def divergence(q: Gaussian, w: Gaussian) -> jax.Array:
    """KL(q ‖ w), summed over all weights, `[]`."""

    def leaf(mean, rho, other, other_rho):
        sigma = jax.nn.softplus(other_rho)
        # By the ratio, the gradient is 0 to the bit where q = w. Adam makes much of
        # the least number: rounding would move weights that no sample reaches.
        ratio = jax.nn.softplus(rho) / sigma
        far = (mean - other) / sigma
        return (0.5 * (ratio**2 - 1 + far**2) - jnp.log(ratio)).sum()

    return jnp.stack(jax.tree.leaves(jax.tree.map(leaf, *q, *w))).sum()


def _adam_step(gaussian, grads, moments, lr):
    # Optax raises a float to the power of an integer.
    with jax.numpy_dtype_promotion("standard"):
        direction, moments = _ADAM.update(grads, moments)
    return tree.step(gaussian, direction, lr), moments


def _times(number, values):
    return jax.tree.map(lambda x: number.astype(x.dtype) * x, values)
