"""What a round costs: participation, unequal sizes, compile time.

    python -m experiments.benchmark [--json=FILE]

Ratios are medians over pairs measured in turn in one process, so that they hold on a
machine whose speed drifts.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from permfl_jax import federation, keys, models, runner, task
from permfl_jax.algorithms.permfl import HParams, permfl
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

flags.DEFINE_integer("pairs", 5, "Pairs per ratio.")
flags.DEFINE_string("json", None, "Also write the figures to this file.")

_SHAPE = (28, 28, 1)


class Case(NamedTuple):
    """One federation and schedule to time.

    Attributes:
      team_sizes: devices of each team.
      counts: samples of each device.
      devices_per_round: n, or `None` for all.
      team_steps: K.
      device_steps: L.
      model: registry name.
    """

    team_sizes: tuple[int, ...] = (10, 10, 10, 10)
    counts: tuple[int, ...] = (550,) * 40
    devices_per_round: int | None = None
    team_steps: int = 5
    device_steps: int = 20
    model: str = "mclr"


def prepare(case: Case) -> tuple[Callable[[], float], float]:
    """A function that runs and times one global round, and the compile seconds."""
    rng = np.random.default_rng(0)
    devices = [
        {
            "x": rng.integers(0, 256, (n, *_SHAPE), dtype=np.uint8),
            "y": rng.integers(0, 10, n).astype(np.int32),
        }
        for n in case.counts
    ]
    teams = np.repeat(np.arange(len(case.team_sizes)), case.team_sizes).tolist()
    data = federation.from_arrays(devices, teams)
    spec = models.ModelSpec(dataset="mnist", sample_shape=_SHAPE, num_classes=10)
    classify = task.classification(
        models.build(case.model, spec), devices[0]["x"][0], scale=2 / 255, offset=-1.0
    )
    schedule = Schedule(team_steps=case.team_steps, device_steps=case.device_steps)
    sampler = Sampler(case.team_sizes, None, case.devices_per_round)
    algorithm = permfl(classify.loss, schedule, sampler)
    key, hparams = jax.random.key(0), HParams().traced()
    params = classify.init(keys.init_key(key))
    state = runner.start(algorithm, params, data)
    begun = time.perf_counter()
    call = runner.advance.lower(algorithm, 1, key, hparams, state, data).compile()
    compile_seconds = time.perf_counter() - begun

    def one_round() -> float:
        nonlocal state
        begun = time.perf_counter()
        state, metrics = call(key, hparams, state, data)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begun

    one_round()
    return one_round, compile_seconds


def ratio(case: Case, base: Case, pairs: int) -> dict[str, float]:
    """Seconds per global round of `case` over those of `base`, pair by pair."""
    (one, _), (two, _) = prepare(case), prepare(base)
    ratios = sorted(one() / two() for _ in range(pairs))
    return {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}


def lognormal_counts(num_devices: int, mean: int) -> tuple[int, ...]:
    """Sample counts with lognormal(σ=2) skew and about the given mean."""
    sizes = np.random.default_rng(0).lognormal(0, 2, num_devices)
    return tuple(np.maximum(1, mean * sizes / sizes.mean()).astype(int).tolist())


def measure(pairs: int) -> dict[str, dict[str, float]]:
    """Every figure of the table."""
    base = Case()
    many = Case(team_sizes=(100,) * 4, counts=(100,) * 400, team_steps=2)
    figures = {
        "10 % participation / full (400 devices)": ratio(
            many._replace(devices_per_round=10), many, pairs
        ),
        "teams of 2, 4, 8, 26 / four of 10": ratio(
            base._replace(team_sizes=(2, 4, 8, 26)), base, pairs
        ),
        "lognormal(2) sample counts / equal": ratio(
            base._replace(counts=lognormal_counts(40, 550)), base, pairs
        ),
    }
    figures |= {
        f"compile seconds, {name}": {"seconds": prepare(case)[1]}
        for name, case in {
            "mclr": base,
            "mclr, M N K L x 2": Case((20,) * 8, (550,) * 160, None, 10, 40),
            "cnn": Case((2,) * 2, (100,) * 4, None, 1, 1, "cnn"),
            "cnn, M N K L x 2": Case((4,) * 4, (100,) * 16, None, 2, 2, "cnn"),
        }.items()
    }
    return figures


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    figures = measure(flags.FLAGS.pairs)
    for name, values in figures.items():
        shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        print(f"{name:44}{shown}")
    if flags.FLAGS.json:
        with open(flags.FLAGS.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    app.run(main)
