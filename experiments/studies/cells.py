"""Trains the arms of a study; a cell is all settings of a method on the same flags."""

import dataclasses
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags

from permfl_jax import algorithms, hparams, provenance, scores
from permfl_jax.errors import InputError

from .. import experiment, machine
from ..config import Config
from ..contests import columns
from ..contests import scores as labels
from ..contests.grids import Setting
from ..members import Members
from ..population import Population
from . import regrouped, rivals, unseen
from .study import Arm, Driver, Study

# `(experiment, members, *numbers)` with a method `train`, which yields rows.
DRIVERS: dict[Any, Callable[..., Any]] = {
    "together": Population,
    "regrouped": regrouped.Regrouped,
    "unseen": unseen.Unseen,
}
# `(config, *numbers)`, raises InputError for flags that a driver cannot take.
CHECKS: dict[Any, Callable[..., None]] = {"unseen": unseen.check}
_SCORES = (*labels.SCORES, "macro_f1")


class Cell(NamedTuple):
    """What is trained as one program, seeds times settings.

    Attributes:
      name: of its file.
      flags: over those of the user.
      method: its name.
      settings: of all its arms.
      driver: how they are trained.
      arms: that share flags, method and driver.
    """

    name: str
    flags: tuple[str, ...]
    method: str
    settings: tuple[Setting, ...]
    driver: Driver
    arms: tuple[Arm, ...]


def plan(study: Study, quick: bool, values: flags.FlagValues) -> list[Cell]:
    """The cells of a study.

    Args:
      study: the question.
      quick: small.
      values: parsed flags; what the user gave replaces the study's.

    Raises:
      InputError: the user gave a flag that arms set.
    """
    common = shlex.split(study.flags) + shlex.split(study.quick_flags if quick else "")
    common = [text for text in common if not values[_name(text)].present]
    together: dict[tuple[str, str, Driver], list[Arm]] = {}
    for arm in study.arms(quick):
        for text in shlex.split(arm.flags):
            if values[_name(text)].present:
                raise InputError(
                    f"--{_name(text)} cannot be used: it is what the arms of this "
                    "study set."
                )
        together.setdefault((arm.flags, arm.method, arm.driver), []).append(arm)
    found = []
    for (given, method, driver), arms in together.items():
        settings = {repr(s): s for arm in arms for s in arm.settings}
        flags_ = (*common, *shlex.split(given))
        name = f"{len(found):03d}_{method}"
        settings_ = tuple(settings.values())
        found.append(Cell(name, flags_, method, settings_, driver, tuple(arms)))
    return found


def _name(text):
    return text.removeprefix("--").partition("=")[0]


def config_of(cell: Cell, values: flags.FlagValues) -> Config:
    """The checked flags of a cell.

    Raises:
      InputError: a user's mistake.
    """
    return columns.column(cell.name, values, list(cell.flags), "fair").config


def measure(
    cells: Sequence[Cell], values: flags.FlagValues, seeds: tuple[int, ...]
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Trains cell after cell; data are read once for cells that share their flags.

    Args:
      cells: of one plan.
      values: parsed flags.
      seeds: R, of initial models, mini-batches and participation.
    """
    built, before = None, None
    for cell in cells:
        settings = config_of(cell, values)
        if built is None or cell.flags != before:
            machine.set_precision(settings.precision)
            # Rivals are no entries of the registry, and refuse what PerMFL refuses.
            known = cell.method if cell.method in algorithms.ALGORITHMS else "permfl"
            data = dataclasses.replace(settings, algorithm=known, hparam=())
            built = experiment.spread(experiment.build(data))
            built = built._replace(task=scores.by_class(built.task))
            before = cell.flags
        yield cell, _train(cell, built, settings, seeds)
        machine.forget_programs()


def _train(cell, built, settings, seeds):
    method = rivals.get(cell.method)
    own = built._replace(
        config=settings,
        method=method,
        algorithm=method.factory(built.task.loss, built.schedule, built.sampler),
    )
    who = Members(
        seeds=seeds,
        axes={},
        settings=cell.settings,
        hparams=_checked(cell),
    )
    begun = time.monotonic()
    driver, *numbers = cell.driver
    trainer = DRIVERS[driver](own, who, *numbers)
    rows = [row for _, some in trainer.train(("validation", "test")) for row in some]
    return {
        "method": cell.method,
        "flags": list(cell.flags),
        "seeds": list(seeds),
        "seconds": round(time.monotonic() - begun, 1),
        "majority_accuracy": own.majority_accuracy,
        "partition": {k: v for k, v in own.report.items() if not isinstance(v, list)},
        "team": own.report["team"],
        "commit": provenance.git_commit(),
        "results": [_result(rows, setting, seeds) for setting in cell.settings],
    }


def _result(rows, setting, seeds):
    """Of one setting: per label and seed the scores of the last round, and GM's way."""
    own = [row for row in rows if row["hparams"] == setting]
    runs = [[row for row in own if row["seed"] == seed] for seed in seeds]
    found: dict[str, Any] = {"hparams": setting, "labels": {}}
    ended = [run[-1]["diverged"] for run in runs if "diverged" in run[-1]]
    if ended:
        found["diverged"] = ended[0]
    else:
        sent = {k: v for k, v in runs[0][-1].items() if k.startswith("bytes/")}
        found["bytes"] = sent
        formed = [name for name in regrouped.FOUND if name in runs[0][-1]]
        if formed:
            found["formed"] = {name: [run[-1][name] for run in runs] for name in formed}
    for label in labels.LABELS:
        prefix = labels.prefix_of(own, label)
        if prefix is None:
            continue
        checked = labels.prefix_of(own, label, "validation")
        scored = {s: [run[-1].get(f"{prefix}{s}") for run in runs] for s in _SCORES}
        scored["validation"] = [run[-1].get(f"{checked}accuracy") for run in runs]
        scored["curve"] = [
            [[row["round"], row.get(f"{prefix}accuracy")] for row in run]
            for run in runs
        ]
        found["labels"][label] = scored
    return found


def check(cells: Sequence[Cell], values: flags.FlagValues) -> None:
    """Finds what can be found before data are read.

    Raises:
      InputError: a user's mistake.
    """
    for cell in cells:
        settings = config_of(cell, values)
        if not settings.validation_fraction:
            raise InputError(
                "a study chooses settings on validation samples, and "
                "--validation_fraction=0 leaves none."
            )
        if cell.method not in algorithms.ALGORITHMS and not settings.keep_personal:
            raise InputError(
                f"--nokeep_personal cannot be used: {cell.method} reads what devices "
                "keep."
            )
        driver, *numbers = cell.driver
        if driver in CHECKS:
            CHECKS[driver](settings, *numbers)
        _checked(cell)


def _checked(cell):
    kind = rivals.get(cell.method).hparams
    return tuple(
        hparams.parse(kind, [f"{name}={value!r}" for name, value in setting.items()])
        for setting in cell.settings
    )
