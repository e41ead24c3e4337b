"""DemLearn: devices grouped anew in each round, by how near their models are.

    θ_n <- θ_n - α(∇f_n(θ_n) + μ(θ_n - g_n)), K·L times from its own θ_n
    a tree over the θ_n; each group's model <- Σ p_n θ_n / Σ p_n over its devices
    child <- (1 - α_d) child + α_d parent, from the root down to the devices

g_n is the model of the group that device n is in, as it was after the last round; in
round 1 there is none, and no pull. μ = 0 is DemLearn, μ > 0 DemLearn-P.

Source: Nguyen et al., "Self-organizing Democratized Learning: Towards Large-scale
Distributed Learning Systems", arXiv:2007.03278, and its code, nhatminh/Dem-AI. The tree
is cut from average linkage of the Euclidean distances between whole models: the root's
two children are the sides of the last merge, each is split twice more, and devices hang
below these eight groups. Where a branch is a single device, it hangs there itself. With
α_d = 1 everybody gets the root, which is FedAvg; with α_d = μ = 0 training is local.

Of the code we leave out the 1.15 by which it multiplies all means of the first rounds,
and its slower means (γ_s < 1); the tree is made in every round. Who is absent keeps its
model, is in no group of that round's tree, and goes on under the root. Evaluated:
PM = θ after mixing, GM = the root.

Models of all devices are at the server, and distances of any two: at most 2,000 act.
Defaults: those of the code for MNIST and 50 devices, μ = 0.002.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat, keys, linkage, local, placement, tree, weighting
from permfl_jax import hparams as checks
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State

LEVELS = 3  # of groups below the root
LOWEST = 2**LEVELS  # groups above devices; as a label, the root
MOST_DEVICES = 2000


class Numbers(NamedTuple):
    """What `Algorithm.round` takes.

    Attributes:
      training: α and μ.
      share: α_d.
    """

    training: Rates
    share: jax.Array


class Groups(NamedTuple):
    """What `State.extra` holds.

    Attributes:
      models: what devices of each lowest group are pulled to, leaves `[8, ...]`.
      device: `[D]` int32, which group; 8 is the root, for who was not in the last tree.
    """

    models: Params
    device: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: α.
      device_prox: μ.
      server_share: α_d, how far a child moves to its parent.
    """

    device_lr: float = 0.05
    device_prox: float = 0.002
    server_share: float = 0.6

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("device_prox", self.device_prox)
        checks.require("server_share", self.server_share, most=1)

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        lr, prox, share = (
            jnp.asarray(x, float)
            for x in (self.device_lr, self.device_prox, self.server_share)
        )
        return Numbers(Rates(lr, prox), share)


def demlearn(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Self-organizing learning.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights p.
      sampler: who takes part.

    Raises:
      InputError: the schedule keeps no personal models or codes uploads, or too many
        devices act.
    """
    schedule.require_personal("demlearn")
    schedule.require_uploads("demlearn")
    if sampler.places > MOST_DEVICES:
        raise InputError(
            f"--algorithm=demlearn compares every two of the devices that act in a "
            f"round, so at most {MOST_DEVICES} may, got {sampler.places}: lower "
            "--devices_per_round or --teams_per_round."
        )
    method = _DemLearn(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)


class _DemLearn(NamedTuple):
    """The constants of one DemLearn; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        label = jnp.full(num_devices, LOWEST, jnp.int32)
        return flat.no_device_state(params, num_devices, num_teams)._replace(
            device=tree.stack(params, num_devices),
            extra=Groups(tree.stack(params, LOWEST), label),
        )

    def round(
        self, key: jax.Array, numbers: Numbers, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        cohort = flat.draw(self.sampler, key, state.round, federation)
        steps = self.steps(key, numbers, state.round, federation)
        theta, before, label = cohort.take(
            (state.device, state.cursor, state.extra.device)
        )
        above = Shared(_with_root(state.extra.models, state.server))
        theta, loss = local.train(
            steps, dataclasses.replace(cohort, slot=label), before, theta, above
        )
        label = groups_of(cohort, theta)
        weight = cohort.weights(weighting.device_weights(self.schedule, federation))
        means, counts = means_of(cohort, theta, label, weight)
        parents = mixed(means, counts, numbers.share)
        theta = tree.lerp(theta, tree.take(parents, label), numbers.share)
        nobody = jnp.full_like(state.extra.device, LOWEST)
        state = state._replace(
            round=state.round + 1,
            cursor=cohort.put(state.cursor, before + steps.taken),
            device=cohort.put(state.device, theta),
            server=flat.of_one(means[0]),
            extra=Groups(parents, cohort.put(nobody, label)),
        )
        return state, {
            "device/loss": cohort.mean(loss).mean(),
            "device/largest_group": counts[-1].max() / counts[-1].sum(),
        }

    def steps(self, key, numbers, round_, federation):
        """The K·L steps of a round."""
        pull = jnp.where(round_ > 0, numbers.training.prox, 0)
        return Steps(
            self.loss_fn,
            self.schedule,
            keys.batch_key(key),
            numbers.training._replace(prox=pull),
            federation,
            count=self.schedule.steps_per_round,
        )


def groups_of(cohort: Cohort, theta: Params) -> jax.Array:
    """`[A]` int32: the lowest group of each device; half of it is the one above.

    Args:
      cohort: who is there.
      theta: leaves `[A, ...]`.
    """
    # Every chip makes the whole tree: less work than telling each other its branches.
    whole = placement.EVERYWHERE
    cut = placement.per_chip(
        cohort.placement,
        functools.partial(linkage.top_groups, levels=LEVELS),
        (whole, whole),
        whole,
    )
    return cut(linkage.distances(theta), _present(cohort))


def means_of(
    cohort: Cohort, theta: Params, label: jax.Array, weight: jax.Array
) -> tuple[list[Params], list[jax.Array]]:
    """What each level of the tree makes of its children, from the lowest groups up.

    Args:
      cohort: who is there.
      theta: leaves `[A, ...]`.
      label: `[A]`, from `groups_of`.
      weight: `[A]`, from `cohort.weights`.

    Returns:
      Root first, the means, leaves `[1, ...]`, `[2, ...]`, `[4, ...]`, `[8, ...]`, and
      how many devices they are of, `[1]` to `[8]`; without any, a mean is 0.
    """
    groups = dataclasses.replace(cohort, slot=label)
    means = [groups.team_mean(theta, weight, LOWEST)]
    mass, count = (
        jax.ops.segment_sum(x, label, LOWEST)
        for x in (weight, _present(cohort).astype(weight.dtype))
    )
    counts = [count]
    for level in reversed(range(LEVELS)):
        parent = _parents(level + 1)
        means.insert(0, tree.segment_mean(means[0], mass, parent, 2**level))
        mass, count = mass.reshape(-1, 2).sum(axis=1), counts[0].reshape(-1, 2)
        counts.insert(0, count.sum(axis=1))
    return means, counts


def mixed(means: list[Params], counts: list[jax.Array], share: jax.Array) -> Params:
    """From the root down, the models that devices of each lowest group hang below.

    A branch of one device is that device, so what is above the branch is its parent.

    Args:
      means: from `means_of`.
      counts: likewise.
      share: α_d.

    Returns:
      Leaves `[8, ...]`.
    """
    # As one product, since compilers add up a chain of mixes in ways that hang on how
    # many rounds are compiled together.
    passed, parts = jnp.ones(LOWEST, share.dtype), []
    for level in range(LEVELS, -1, -1):
        ancestor = jnp.arange(LOWEST) >> (LEVELS - level)
        to_parent = jnp.where(counts[level] > 1, share, 1) if level else jnp.zeros(1)
        to_parent = to_parent.astype(share.dtype)[ancestor]
        part = passed * (1 - to_parent)
        parts.insert(0, part[:, None] * jax.nn.one_hot(ancestor, 2**level))
        passed = passed * to_parent
    matrix = jnp.concatenate(parts, axis=1)

    def leaf(*levels):
        rows = jnp.concatenate(levels)
        return jnp.tensordot(matrix.astype(rows.dtype), rows, 1, precision="highest")

    return jax.tree.map(leaf, *means)


def _parents(level):
    """`[2**level]` int32: number, one level up, of the parent of each group."""
    return jnp.arange(2**level, dtype=jnp.int32) // 2


def _present(cohort):
    everyone = jnp.ones(cohort.slot.shape, bool)
    return everyone if cohort.present is None else cohort.present


def _with_root(models, root):
    """Leaves `[8, ...]` and `[...]` to `[9, ...]`, the root last."""
    return jax.tree.map(lambda m, x: jnp.concatenate([m, x[None]]), models, root)
