"""Small federations with all that a plain NumPy loop needs to replay a method on them.

A `World` is run twice: by the library, and by a loop of `oracles_baselines` that takes
its gradients, its weights and its draws. Models are flat vectors there.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from federations import (
    classes_federation,
    mclr_loss,
    mclr_params,
    quadratic_federation,
    quadratic_loss,
)

from permfl_jax import batches, keys, runner
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.cohort import Cohort
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation

SEED = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A federation twice: for the library and for a plain loop.

    Attributes:
      loss: `(params, batch) -> losses [B]`.
      federation: the data.
      params: the first model.
      team: `[D]`.
      weight: `[D]`, p of every mean over devices.
      team_weight: `[M]`, q.
      teams: `t -> teams that act`.
      devices: `(t, k, i) -> devices of team i that act`.
      gradient: `(device, number of the mini-batch, θ) -> ∇f`, while training.
      tuning: likewise while a model is made personal.
      sampler: who acts.
      schedule: what `Schedule` takes beside K and L.
    """

    loss: Callable
    federation: Federation
    params: Any
    team: np.ndarray
    weight: np.ndarray
    team_weight: np.ndarray
    teams: Callable
    devices: Callable
    gradient: Callable
    tuning: Callable
    sampler: Sampler
    schedule: dict

    @property
    def start(self):
        return vectors(self.params, 1)[0]

    def acting(self, t):
        """Who acts in a round without teams: those of the first exchange."""
        return [j for i in self.teams(t) for j in self.devices(t, 0, i)]

    @property
    def flat(self):
        """What every loop without teams takes."""
        return {"weight": self.weight, "acting": self.acting}

    def algorithm(self, name, **schedule):
        return _algorithm(
            name, self.loss, Schedule(**self.schedule | schedule), self.sampler
        )

    def run(self, name, hparams, rounds, **schedule):
        """The state after `rounds`."""
        algorithm = self.algorithm(name, **schedule)
        state = runner.start(algorithm, self.params, self.federation)
        return run_from(state, algorithm, name, hparams, self.federation, rounds)

    def personalized(self, name, hparams, state, **schedule):
        """`[D, P]`: all devices' models, made now."""
        models = _personalize(
            self.algorithm(name, **schedule),
            jax.random.key(SEED),
            traced(name, hparams),
            state,
            self.federation,
        )
        return vectors(models, len(self.team))


def traced(name, hparams):
    """The numbers that a method takes; `hparams` is what its `HParams` takes."""
    return ALGORITHMS[name].hparams(**hparams).traced()


def run_from(state, algorithm, name, hparams, federation, rounds, seed=SEED):
    """`rounds` more; gives `state` away."""
    numbers, key = traced(name, hparams), jax.random.key(seed)
    *_, (end, _) = runner.run(algorithm, key, numbers, state, federation, rounds)
    return end


def vectors(tree, rows):
    """One or more models as `[rows, P]`, an MCLR's weight before its bias."""
    leaves = jax.tree.leaves(tree)[::-1]
    return np.concatenate([np.asarray(x).reshape(rows, -1) for x in leaves], axis=1)


# The same object is compiled once, whichever test asks for it.
@functools.lru_cache
def _algorithm(name, loss, schedule, sampler):
    return ALGORITHMS[name].factory(loss, schedule, sampler)


@functools.partial(jax.jit, static_argnums=0)
def _personalize(algorithm, key, numbers, state, federation):
    everyone = Cohort.everyone(federation)
    return algorithm.personalize(key, numbers, state, federation, everyone)


# Draws are of m teams and n devices of each.
WORLDS = {
    "uniform": {},
    "samples": {"weights": "samples"},
    "draws": {"draws": (2, 2)},
    "samples_draws": {"weights": "samples", "draws": (2, 2)},
    "batches": {"batching": "cyclic"},
    "samples_draws_batches": {
        "weights": "samples",
        "draws": (1, 2),
        "batching": "shuffle",
    },
}


@functools.cache
def world(name):
    """Random quadratics, or MCLR where there are mini-batches."""
    return build(**WORLDS[name])


def unequal_teams():
    """Of 1, 2 and 5 devices."""
    return oracles.random_quadratics(13, (1, 2, 5), 3)


def build(*, weights="uniform", draws=(None, None), batching=None):
    if batching is None:
        counts = [3, 1, 4, 2, 7, 1, 5, 2]
        return of_quadratics(unequal_teams(), counts, weights, draws)
    # Sizes below, at and above the batch; a pass of 5 batches ends within a round.
    counts, team = [1, 4, 5, 18], np.array([0, 1, 1, 1])
    parts = _batch_parts(counts, team, batching, 4)
    return _world(parts, team, counts, weights, draws)


def of_quadratics(f, counts=None, weights="uniform", draws=(None, None)):
    """Full batches; `counts` are the samples of each device."""
    return _world(_quadratic_parts(f, counts), f.team, counts, weights, draws)


def _world(parts, team, counts, weights, draws):
    by_samples = weights == "samples"
    sizes = tuple(np.bincount(team).tolist())
    weight = np.array(counts, float) if by_samples else np.ones(len(team))
    in_team = np.array([weight[team == i].sum() for i in range(len(sizes))])
    teams, devices = reference_draws(sizes, SEED, *draws)
    return World(
        team=team,
        weight=weight,
        team_weight=in_team if by_samples else np.ones(len(sizes)),
        teams=teams,
        devices=devices,
        sampler=Sampler(sizes, *draws),
        schedule=parts.pop("schedule") | {"weights": weights},
        **parts,
    )


def _quadratic_parts(f, counts):
    def gradient(j, _, theta):
        return f.hessian[j] @ theta - f.linear[j]

    return {
        "loss": quadratic_loss,
        "federation": quadratic_federation(f, counts),
        "params": jnp.asarray(np.linspace(1, -2, f.linear.shape[1])),
        "gradient": gradient,
        "tuning": gradient,
        "schedule": {"batch_size": None},
    }


def _batch_parts(counts, team, batching, batch):
    federation, devices = classes_federation(9, counts, team.tolist())
    key = jax.random.key(SEED)
    streams = keys.batch_key(key), keys.batch_key(keys.personalize_key(key))
    gradient, tuning = (
        minibatch_gradient(devices, batching, batch, stream) for stream in streams
    )
    return {
        "loss": mclr_loss,
        "federation": federation,
        "params": mclr_params(10),
        "gradient": gradient,
        "tuning": tuning,
        "schedule": {"batch_size": batch, "batching": batching},
    }


_positions = jax.jit(batches.positions, static_argnums=(0, 1))


def minibatch_gradient(devices, batching, batch, stream):
    """Recomputes the definition of a step in `batches`, one device at a time."""

    @functools.cache
    def rows(j, step):
        order_key, _ = jax.random.split(jax.random.fold_in(stream, j))
        count = len(devices[j]["y"])
        place, real = _positions(
            batching, batch, order_key, jnp.int32(step), jnp.int32(count)
        )
        chosen = np.asarray(place)[np.asarray(real)]
        if batching == "cyclic":
            first = step % -(-count // batch) * batch
            assert chosen.tolist() == list(range(first, min(first + batch, count)))
        return chosen

    def gradient(j, step, theta):
        x, y = (devices[j][name][rows(j, int(step))] for name in ("x", "y"))
        classes = 3
        weight = theta[:-classes].reshape(classes, -1)
        parts = oracles.mclr_gradient(weight, theta[-classes:], x, y)
        return np.concatenate([part.ravel() for part in parts])

    return gradient


def reference_draws(sizes, seed, teams_per_round, devices_per_round):
    """(t -> teams, (t, k, i) -> devices): the smallest lots act, one key at a time."""
    offsets = np.cumsum([0, *sizes])

    @functools.cache
    def lot(t, *numbers):
        key = keys.participation_key(jax.random.key(seed), jnp.int32(t))
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return int(jax.random.bits(key, (), jnp.uint32))

    def teams(t):
        ranked = sorted(range(len(sizes)), key=lambda i: lot(t, i))
        return sorted(ranked[: teams_per_round or len(sizes)])

    def devices(t, k, i):
        members = range(offsets[i], offsets[i + 1])
        ranked = sorted(members, key=lambda j: lot(t, i, k, j))
        return sorted(ranked[: devices_per_round or sizes[i]])

    return teams, devices
