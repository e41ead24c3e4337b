"""Our program for one workload, compiled, and clocks to hold against it."""

import contextlib
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from permfl_jax import algorithms, evaluate, placement, runner
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

from . import workloads

_LEAST_SECONDS = 0.3  # a measurement repeats its call until so much time is over


class Ours:
    """The global round of a workload on all chips, ready to run.

    Attributes:
      workload: what it runs.
      compile_seconds: to trace, lower and compile the round.
      predicted_bytes: by XLA's plan, on all chips together: arguments, results and
        temporaries of a round; 0 where a back end tells none.
    """

    def __init__(self, workload: workloads.Workload, algorithm: str = "permfl"):
        """Makes the data, places it and compiles; runs nothing yet."""
        method = algorithms.get(algorithm)
        data = workloads.federation_of(workload)
        mesh = placement.choose_mesh(data)
        self.workload = workload
        self._data = placement.place(data, mesh)
        task = workloads.task_of(workload)
        self._algorithm = method.factory(
            task.loss,
            Schedule(
                team_steps=workload.team_steps,
                device_steps=workload.device_steps,
                batch_size=workload.batch_size,
            ),
            Sampler(workload.team_sizes, None, workload.devices_per_round),
        )
        self._key, self._hparams = jax.random.key(0), method.hparams().traced()
        self._evaluator = evaluate.Evaluator(task.metrics, self._data)
        self._state = runner.start(
            self._algorithm, workloads.start_params(workload), self._data
        )
        begun = time.perf_counter()
        self._call = runner.advance.lower(
            self._algorithm, 1, self._key, self._hparams, self._state, self._data
        ).compile()
        self.compile_seconds = time.perf_counter() - begun
        chips = 1 if mesh is None else mesh.size
        self.predicted_bytes = chips * runner.bytes_of(self._call)

    def one_round(self) -> None:
        """One global round; returns when it is done."""
        self._state, metrics = self._call(
            self._key, self._hparams, self._state, self._data
        )
        jax.block_until_ready((self._state, metrics))

    def evaluate(self) -> dict[str, float]:
        """Accuracies and losses of PM, TM and GM on all devices' test samples."""
        models = evaluate.models_of(
            self._algorithm, self._key, self._hparams, self._state, self._data
        )
        return self._evaluator.rows(models, ("test",))

    def step_seconds(self) -> float:
        """Measured seconds per device step."""
        return seconds(self.one_round) / self.workload.steps_per_round


class Ratio(NamedTuple):
    """How many times as long one thing takes as another, over pairs.

    Attributes:
      min: over the pairs.
      median: over the pairs.
      max: over the pairs.
    """

    min: float
    median: float
    max: float


def seconds(call: Callable[[], object]) -> float:
    """Seconds of one call: short ones are repeated, and the mean is taken."""
    begun, number = time.perf_counter(), 0
    while True:
        call()
        number += 1
        elapsed = time.perf_counter() - begun
        if elapsed >= _LEAST_SECONDS:
            return elapsed / number


def ratio(measure: Callable[[], float], base: Callable[[], float], pairs: int) -> Ratio:
    """`measure()` over `base()`, one after the other in turn.

    Both run within seconds of each other, so that the ratio holds on a machine whose
    speed drifts.

    Args:
      measure: runs something and returns seconds.
      base: likewise.
      pairs: how often.
    """
    ratios = []
    for _ in range(pairs):
        below = base()
        ratios.append(measure() / below)
    return Ratio(min(ratios), statistics.median(ratios), max(ratios))


def forget_peak() -> None:
    """Begins a new high-water mark of this process's memory, where the system can."""
    with contextlib.suppress(OSError):  # Linux alone; elsewhere the mark only grows
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Most memory in use at once: of the accelerators, or else of this process.

    An accelerator's mark is that of the process's whole life.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return sum(found["peak_bytes_in_use"] for found in stats)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
