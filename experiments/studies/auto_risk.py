"""What PerMFL with chosen pulls misses on quadratics, over the least that is possible.

The federation is one of random effects, the estimate that nothing linear and unbiased
beats is known for the same data, and every arm trains: loops are as short as they are.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import quadratics, random_effects, runner, theory
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

from ..config import Config
from . import rivals, study
from .study import Curve

PANEL = "risk on quadratics"
_TEAM_SPREADS = (0.25, 0.5, 1.0, 2.0, 4.0)
_SIZES, _DIM, _ROUNDS, _LR = (10,) * 4, 40, 30, 0.05
_SCHEDULE = Schedule(team_steps=10, device_steps=20, batch_size=None)
_SAMPLES = 8  # of each device; their mean misses by τ = 1
_SEEDS = range(5)
_AWAY = 3.0  # of the start, in each coordinate


def curves(config: Config) -> list[Curve]:
    """A curve for each way to choose: mean over seeds of risk over the least.

    Args:
      config: unused; the federation is no dataset.
    """
    del config
    found: dict[str, list[float]] = {}
    for spread in _TEAM_SPREADS:
        worlds = [_world(seed, spread) for seed in _SEEDS]
        for line, (method, setting) in _lines(spread).items():
            ratios = [_ratio(method, setting, *world) for world in worlds]
            found.setdefault(line, []).append(float(np.mean(ratios)))
    return [Curve(PANEL, k, _TEAM_SPREADS, tuple(v)) for k, v in found.items()]


def _lines(spread):
    pulls = theory.best_pulls(
        1.0,
        noise=1.0,
        device_spread=1.0,
        team_spread=spread,
        devices_per_team=_SIZES[0],
    )
    ratio = pulls.team_prox / pulls.device_prox
    return {
        "paper's values": ("permfl", study.paper(_LR)),
        "pulls of known spreads": (
            "permfl",
            study.permfl(_LR, pulls.device_prox, ratio),
        ),
        "auto": ("permfl_auto", {"device_lr": _LR}),
        "balanced": ("permfl_balanced", {"device_lr": _LR}),
        "annealed": (
            "permfl_annealed",
            {"device_lr": _LR, "device_prox": 5.0, "team_prox": 5.0, "decay": 0.8},
        ),
    }


def _world(seed, spread):
    """A federation, its truth, and the risk of the best linear estimate on it."""
    problem = quadratics.draw(
        np.random.default_rng(seed),
        _SIZES,
        np.ones(_DIM),
        team_spread=spread,
        noise=_SAMPLES**0.5,
        counts=_SAMPLES,
        turned=False,
    )
    where = random_effects.world(_SIZES, spread, 1.0, 1.0)
    best = random_effects.best(where) @ problem.centre
    least = ((best - problem.truth) ** 2).mean()
    return quadratics.federation_of(problem), problem.truth, least


@functools.cache
def _algorithm(method: str) -> Any:
    return rivals.get(method).factory(quadratics.loss, _SCHEDULE, Sampler(_SIZES))


def _ratio(method, setting, federation, truth, least):
    algorithm = _algorithm(method)
    numbers = rivals.get(method).hparams(**setting).traced()
    # Away from the middle of all, where who moves slowly would be right.
    start = runner.start(algorithm, jnp.full(_DIM, _AWAY), federation)
    *_, (state, _) = runner.run(
        algorithm, jax.random.key(0), numbers, start, federation, _ROUNDS, _ROUNDS
    )
    return float(((np.asarray(state.device) - truth) ** 2).mean() / least)
