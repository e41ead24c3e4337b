"""Trains, scores and sums up an experiment; knows no method by name."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from permfl_jax import algorithms, checked, evaluate, keys, measure, runner
from permfl_jax.errors import DivergenceError
from permfl_jax.types import State

from . import machine
from .costs import cost
from .experiment import Experiment, rounds_per_call
from .session import Begin, Session

flags.DEFINE_bool(
    "checks",
    False,
    "Watch every operation, on one chip, and name the first that gives NaN or divides "
    "by zero; slower.",
)


def advice(experiment: Experiment) -> list[str]:
    """Warnings about the hyper-parameters, from measurements before `spread`."""
    if experiment.method.advise is None:
        return []
    with machine.on_host():
        key = jax.random.key(experiment.config.seed)
        measured = measure.measure(
            experiment.task.loss,
            experiment.task.init(keys.init_key(key)),
            experiment.federation,
            key,
        )
    return experiment.method.advise(
        experiment.hparams,
        experiment.schedule,
        experiment.config.num_rounds,
        measured,
        experiment.config.l2,
    )


def planned_bytes(experiment: Experiment) -> int:
    """Memory of the compiled rounds on one chip; `train` then does not compile."""
    key, traced = _given(experiment)
    return runner.planned_bytes(
        experiment.algorithm,
        rounds_per_call(experiment.config),
        key,
        traced,
        start(experiment),
        experiment.federation,
    )


def train(
    experiment: Experiment,
    begin: Begin,
    on_row: Callable[[dict[str, Any]], None],
    after: Callable[[int, State, float], None],
) -> list[dict[str, Any]]:
    """Trains and scores; returns all rows, those of `begin` first.

    Args:
      experiment: what to run.
      begin: from where.
      on_row: called with each evaluation.
      after: called with the rounds done so far, the state, which is given away when it
        returns, and the seconds.

    Raises:
      DivergenceError: something stopped being finite.
    """
    config = experiment.config
    evaluator = evaluate.Evaluator(experiment.task.metrics, experiment.federation)
    rows = list(begin.rows)

    def score(round_, models_now, metrics):
        row = {"round": round_, **evaluator.rows(models_now), **metrics}
        rows.append(row)
        on_row(row)

    begun = time.monotonic() - begin.seconds
    for state, models_now, metrics in _trajectory(experiment, begin.state):
        round_, seconds = int(state.round), time.monotonic() - begun
        if round_ % config.eval_every == 0 or round_ == config.num_rounds:
            metrics |= cost(experiment, experiment.hparams, round_)
            metrics["seconds"] = round(seconds, 3)
            score(round_, models_now(), metrics)
        after(round_, state, seconds)
    return rows


def start(experiment: Experiment) -> State:
    """The state before round 1."""
    key, _ = _given(experiment)
    params = experiment.task.init(keys.init_key(key))
    return runner.start(experiment.algorithm, params, experiment.federation)


def _trajectory(experiment, begin):
    """Yields (state, function giving the models to score, metrics of the round)."""
    config = experiment.config
    key, traced = _given(experiment)
    watched = flags.FLAGS.is_parsed() and flags.FLAGS.checks
    rounds = checked.run if watched else runner.run
    for state, metrics in rounds(
        experiment.algorithm,
        key,
        traced,
        begin,
        experiment.federation,
        config.num_rounds - int(begin.round),
        rounds_per_call(config),
    ):
        last = {
            name: float(values[-1])
            for name, values in metrics.items()
            if not name.startswith(runner.HEALTH)
        }

        def models_now(state=state):
            return evaluate.models_of(
                experiment.algorithm, key, traced, state, experiment.federation
            )

        yield state, models_now, last


def _given(experiment):
    """The key and the numbers of a run."""
    return jax.random.key(experiment.config.seed), experiment.hparams.traced()


def floors(experiment: Experiment, session: Session | None = None) -> dict[str, float]:
    """Test accuracy of what needs no cooperation: majority label and local-only.

    Args:
      experiment: after `spread`.
      session: of the local floor, not entered; `None` saves nothing.

    Raises:
      StoppedError: a signal came.
    """
    result = {"majority/accuracy": experiment.majority_accuracy}
    config = experiment.config
    # The floor is a model of its own for every device: just what was not to be stored.
    if config.local_floor and config.keep_personal and config.algorithm != "local":
        try:
            result |= _local_floor(experiment, session)
        except DivergenceError as error:
            if not jax.process_index():
                print(f"no floor of each device alone: {error}", file=sys.stderr)
    return result


def _local_floor(experiment, session):
    """Every device alone, with the same steps, step size and mini-batches."""
    method = algorithms.get("local")
    lr = getattr(experiment.hparams, "device_lr", method.hparams().device_lr)
    schedule = dataclasses.replace(experiment.schedule, uplink=None)
    alone = experiment._replace(
        schedule=schedule,
        method=method,
        hparams=method.hparams(device_lr=lr),
        algorithm=method.factory(experiment.task.loss, schedule, experiment.sampler),
    )
    begin = session.begin(start(alone)) if session else None
    state = start(alone) if begin is None else begin.state
    begun = time.monotonic() - (begin.seconds if begin else 0.0)
    with session or contextlib.nullcontext():
        for state, *_ in _trajectory(alone, state):  # noqa: B020, the last is used
            if session:
                session.after(int(state.round), state, time.monotonic() - begun)
    key, traced = _given(alone)
    models = evaluate.models_of(alone.algorithm, key, traced, state, alone.federation)
    evaluator = evaluate.Evaluator(experiment.task.metrics, experiment.federation)
    row = evaluator.rows(models, splits=("test",))
    return {f"local/{name.removeprefix('PM/')}": v for name, v in row.items()}


def summarise(rows: list[dict[str, Any]], floor: dict[str, float]) -> dict[str, Any]:
    """The last round, the best round by validation accuracy, and the floors.

    The best round is chosen per model on validation samples, never on test.
    """
    last = rows[-1]
    best = {}
    for label in evaluate.LABELS:
        name = f"{label}/validation/accuracy"
        if name in last:
            row = rows[int(np.argmax([row[name] for row in rows]))]
            best[label] = {"round": row["round"], "accuracy": row[f"{label}/accuracy"]}
    return {"last": last, "best_by_validation": best, "floors": floor}
