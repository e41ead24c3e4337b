"""One cell of a comparison: one method on one column, by one protocol."""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax

from permfl_jax import algorithms
from permfl_jax.errors import InputError
from permfl_jax.schedule import Schedule

from ..costs import bytes_sent
from ..experiment import Experiment, model_bytes
from ..members import Members
from ..population import Population
from . import columns, grids, scores
from .columns import Column


class Entry(NamedTuple):
    """A method on a column whose data is there.

    Attributes:
      column: its flags.
      name: of the method.
      built: the experiment, placed on its chips, with this method's schedule.
      seeds: of the reported runs.
      tuning_seeds: of the tuning runs.
    """

    column: Column
    name: str
    built: Experiment
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]


def schedule_of(name: str, schedule: Schedule, protocol: str) -> Schedule:
    """The schedule with which a method computes as many gradients as the others.

    Raises:
      InputError: its team steps cannot be divided.
    """
    method = algorithms.get(name)
    each = method.gradients
    if protocol != "fair":
        return schedule
    if schedule.steps_per_round % method.batch:
        raise InputError(
            f"--methods={name} computes {method.batch} gradients on a mini-batch, so "
            "that the fair protocol needs --team_steps x --device_steps divisible by "
            f"{method.batch}, got {schedule.steps_per_round}."
        )
    if schedule.team_steps % each:
        raise InputError(
            f"--methods={name} computes {each} gradients in a step, so that the fair "
            f"protocol needs --team_steps divisible by {each}, got "
            f"{schedule.team_steps}."
        )
    return dataclasses.replace(schedule, team_steps=schedule.team_steps // each)


def enter(
    column: Column,
    name: str,
    built: Experiment,
    seeds: tuple[int, ...],
    tuning_seeds: tuple[int, ...],
    protocol: str,
) -> Entry:
    """The column's experiment with another method; data and task stay.

    Args:
      column: its flags.
      name: of the method.
      built: from `experiment.build` and `spread`, with any method and the column's
        schedule.
      seeds: of the reported runs.
      tuning_seeds: of the tuning runs.
      protocol: `fair` or `paper`.

    Raises:
      InputError: the method refuses the schedule.
    """
    method = algorithms.get(name)
    schedule = schedule_of(name, built.schedule, protocol)
    own = built._replace(
        schedule=schedule,
        method=method,
        algorithm=method.factory(built.task.loss, schedule, built.sampler),
    )
    return Entry(column, name, own, seeds, tuning_seeds)


def fair(entry: Entry) -> dict[str, Any]:
    """Tunes on validation, runs what was chosen, scores the last round on test."""
    fixed = entry.column.fixed(entry.name)
    settings = grids.grid(entry.name, entry.column.grid_lr, fixed)
    begun = time.monotonic()
    rounds = entry.column.tuning_rounds
    tuned = _train(entry, settings, entry.tuning_seeds, ("validation",), rounds, rounds)
    tuning = scores.tuning(tuned, settings)
    seconds = {"tuning": round(time.monotonic() - begun, 2)}
    chosen = scores.chosen(tuning)
    if not chosen:
        ended = tuning[0].get("diverged")
        return {
            "tuning": tuning,
            "labels": {},
            "all_diverged": ended,
            "seconds": seconds,
        }
    finals = sorted(set(chosen.values()))
    begun = time.monotonic()
    rows = _train(
        entry,
        [settings[i] for i in finals],
        entry.seeds,
        ("test",),
        entry.column.config.num_rounds,
        entry.column.config.eval_every,
    )
    seconds["final"] = round(time.monotonic() - begun, 2)
    labels = {}
    for label, number in chosen.items():
        own = [row for row in rows if row["hparams"] == settings[number]]
        labels[label] = {
            "hparams": settings[number],
            "on_edge": grids.on_edge(settings, settings[number]),
            "validation": tuning[number]["validation"][label],
            **scores.last_round(own, label, entry.seeds),
            **_sent(entry, settings[number]),
        }
    return {"tuning": tuning, "labels": labels, "seconds": seconds}


def paper(entry: Entry) -> dict[str, Any]:
    """One setting, not tuned; best round on test, as the authors report, and last."""
    begun = time.monotonic()
    settings = entry.column.config
    rows = _train(
        entry, [{}], entry.seeds, ("test",), settings.num_rounds, settings.eval_every
    )
    hparams = grids.checked(entry.name, entry.column.fixed(entry.name), {})
    used = {name: value for name, value in vars(hparams).items() if value is not None}
    labels = {}
    for label in scores.LABELS:
        if scores.prefix_of(rows, label) is not None:
            labels[label] = {
                "hparams": used,
                **scores.last_round(rows, label, entry.seeds),
                **scores.peak(rows, label, entry.seeds),
                **_sent(entry, {}),
            }
    seconds = {"final": round(time.monotonic() - begun, 2)}
    found = {"labels": labels, "seconds": seconds}
    return found if labels else {**found, "all_diverged": rows[-1]["diverged"]}


PROTOCOLS = dict(zip(columns.PROTOCOLS, (fair, paper), strict=True))


def run(entry: Entry, protocol: str) -> dict[str, Any]:
    """The cell, with what it cost.

    Args:
      entry: who runs where.
      protocol: `fair` or `paper`.
    """
    built = entry.built
    schedule = built.schedule
    each = built.method.gradients
    model = jax.eval_shape(built.task.init, jax.random.key(0))
    leaves = jax.tree.leaves(model)
    return {
        **PROTOCOLS[protocol](entry),
        "seeds": list(entry.seeds),
        "majority_accuracy": built.majority_accuracy,
        "parameters": sum(leaf.size for leaf in leaves),
        "model_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "team_steps": schedule.team_steps,
        "gradients_per_round": schedule.team_steps * schedule.device_steps * each,
        "rounds": entry.column.config.num_rounds,
    }


def _train(entry, settings, seeds, splits, rounds, every):
    """All rows of seeds times settings, in one program."""
    column = entry.column
    fixed = column.fixed(entry.name)
    who = Members(
        seeds=tuple(seeds),
        axes={},
        settings=tuple(settings),
        hparams=tuple(grids.checked(entry.name, fixed, one) for one in settings),
    )
    config = dataclasses.replace(
        column.config,
        num_rounds=rounds,
        eval_every=every,
        rounds_per_call=math.gcd(column.config.rounds_per_call, rounds, every),
    )
    group = Population(entry.built._replace(config=config), who)
    return [row for _, rows in group.train(splits) for row in rows]


def _sent(entry, setting):
    """Models sent in a round, by tier and direction; a coded one is a part of one."""
    built = entry.built
    hparams = grids.checked(entry.name, entry.column.fixed(entry.name), setting)
    sent, model = bytes_sent(built, hparams), model_bytes(built.task)
    return {"traffic": {name: x / model for name, x in sent._asdict().items()}}
