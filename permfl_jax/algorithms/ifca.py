"""IFCA: as many models as there are kinds of devices; each device picks its own.

    min Σ_n p_n min_j f_n(w_j) over w_1, ..., w_k

    j_n = argmin_j f_n(w_j; B₁);  y_n = K·L SGD steps from w_{j_n}, the first one on B₁
    w_j <- Σ_{n: j_n = j} p_n y_n / Σ_{n: j_n = j} p_n;  a w_j that nobody chose stays

Source: Ghosh et al., "An Efficient Framework for Clustered Federated Learning",
NeurIPS 2020, arXiv:2006.04088, Algorithm 1 with model averaging. k is the number of
teams M; the teams themselves matter only for who takes part. k = 1 is FedAvg.
Evaluated: PM = the w_j that a device chooses now by one mini-batch of its training
samples (PM_adapted). These are also the team models, which are not scored twice.

All w_j start from the one model that a run is given, where the losses are equal and
argmin would send everybody to w_1: the others would wait, untrained, until somebody
finds w_1 worse than the start. So in round 1 every device draws its j_n, each alike.
The paper starts from k models apart and takes the best of several runs; here another
seed is another draw, and some draws end with kinds of devices that share a model.

A device computes k losses beside its K·L gradients. It gets k models and sends one. The
default is PerMFL's α.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat, keys, local, tree, weighting
from permfl_jax.cohort import Cohort
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates, Step, StepSize
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State

HParams = StepSize


def ifca(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """The iterative federated clustering algorithm.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part; its teams say k.

    Raises:
      InputError: the schedule codes uploads.
    """
    schedule.require_uploads("ifca")
    method = _IFCA(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round, method.personalize)


class _IFCA(NamedTuple):
    """The constants of one IFCA; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        return flat.no_device_state(params, num_devices, num_teams)._replace(
            server=None, extra=tree.stack(params, num_teams)
        )

    def round(
        self, key: jax.Array, rates: Rates, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        clusters, num_clusters = state.extra, self.sampler.num_teams
        cohort = flat.draw(self.sampler, key, state.round, federation)
        before = cohort.take(state.cursor)
        steps = self.steps(keys.batch_key(key), rates, federation)
        choice = jnp.where(
            state.round == 0,
            first_choice(key, cohort.take(federation.identity), num_clusters),
            best_choice(steps, cohort, before, clusters),
        )
        weights = weighting.device_weights(self.schedule, federation)
        mean, _, loss = local.train_mean(
            steps,
            dataclasses.replace(cohort, slot=choice),
            before,
            Shared(clusters),
            None,
            cohort.weights(weights),
            num_clusters,
        )
        votes = jax.nn.one_hot(choice, num_clusters, dtype=weights.dtype)
        share = flat.mean(self.schedule, federation, cohort, votes)
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, before + steps.taken),
            extra=tree.where(share > 0, mean, clusters),
        )
        return state, {
            "device/loss": cohort.mean(loss).mean(),
            "device/largest_cluster": share.max(),
        }

    def steps(self, key, rates, federation):
        """The K·L steps of a round."""
        count = self.schedule.steps_per_round
        return Steps(self.loss_fn, self.schedule, key, rates, federation, count=count)

    def personalize(
        self,
        key: jax.Array,
        rates: Rates,
        state: State,
        federation: Federation,
        cohort: Cohort,
    ) -> Params:
        """The model that every device of the cohort chooses now."""
        key = keys.batch_key(keys.personalize_key(key))
        steps = self.steps(key, rates, federation)
        cursor = jnp.zeros_like(cohort.slot)
        choice = best_choice(steps, cohort.as_one_team(), cursor, state.extra)
        return tree.take(state.extra, choice)


def first_choice(key: jax.Array, identity: jax.Array, num_clusters: int) -> jax.Array:
    """`[A]` int32, drawn: what devices choose while all models are the same.

    Args:
      key: the key of the run.
      identity: `[A]`, whose draws these are.
      num_clusters: k.
    """
    own = keys.fold_each(keys.draw_key(key), identity)
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, num_clusters, jnp.int32))(
        own
    )


def best_choice(
    steps: Steps, cohort: Cohort, cursor: jax.Array, clusters: Params
) -> jax.Array:
    """`[A]` int32: whose loss is least on each device's next mini-batch.

    Args:
      steps: give the loss and the mini-batches.
      cohort: which devices, as one team.
      cursor: `[A]` int32, the number of that mini-batch; it is not used up.
      clusters: leaves `[k, ...]`.
    """
    loss = losses_under(steps._replace(count=1), cohort, cursor, clusters)
    return jnp.argmin(loss, axis=1).astype(jnp.int32)


def losses_under(
    steps: Steps, cohort: Cohort, cursor: jax.Array, clusters: Params
) -> jax.Array:
    """`[A, k]`: of each device under each model, the mean over the mini-batches.

    Args:
      steps: give the loss and the mini-batches.
      cohort: which devices, as one team.
      cursor: `[A]` int32, the number of the first mini-batch; none is used up.
      clusters: leaves `[k, ...]`.
    """

    def losses(step: Step, nothing: Params) -> tuple[Params, jax.Array]:
        # One model after the other; its gradient is never used, so never computed.
        return nothing, jax.lax.map(lambda model: step.gradient(model)[0], clusters)

    steps, nothing = steps._replace(rule=losses), Shared(jnp.zeros(1))
    _, loss = local.train(steps, cohort, cursor, nothing, None)
    return loss
