"""Runs that differ only in their seed belong together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from permfl_jax.errors import InputError
from permfl_jax.evaluate import LABELS

from .report_folder import Run, number

# What does not make another experiment: a seed, where files are, which chips compute.
_SAME = {"seed", "workdir", "data_dir", "manual_dir"}
_SAME |= {"chips", "device_chunk", "rounds_per_call", "distributed"}
# What a person looks at first.
_FIRST = ("algorithm", "dataset", "model", "partition", "team_formation")
_MOST = 24  # that colours and dashes tell apart
ABSENT = "–"


class Group(NamedTuple):
    """Runs of one experiment.

    Attributes:
      label: what is special about it, in a few words.
      number: its place among the groups, and its colour.
      runs: one for each seed.
    """

    label: str
    number: int
    runs: list[Run]


class Curve(NamedTuple):
    """A quantity over the rounds that all runs of a group have.

    Attributes:
      rounds: `[R]`.
      mean: `[R]`, over the runs.
      low: `[R]`, the lowest run.
      high: `[R]`, the highest.
    """

    rounds: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def group(runs: Sequence[Run]) -> list[Group]:
    """Puts together what belongs together, in the order given.

    Args:
      runs: at least one.

    Raises:
      InputError: more groups than can be told apart.
    """
    found: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        key = tuple(sorted((k, v) for k, v in run.settings.items() if k not in _SAME))
        found.setdefault(key, []).append(run)
    if len(found) > _MOST:
        raise InputError(
            f"The runs have {len(found)} different settings, but a page tells apart at "
            f"most {_MOST}; name fewer folders."
        )
    members = list(found.values())
    labels = _labels([runs[0].settings for runs in members])
    return [
        Group(label, number, runs)
        for number, (label, runs) in enumerate(zip(labels, members, strict=True))
    ]


def differing(settings: Sequence[dict[str, str]]) -> list[str]:
    """Names whose values are not all the same, those that people look at first."""
    names = list(dict.fromkeys(name for each in settings for name in each))
    names = [name for name in _FIRST if name in names] + [
        name for name in names if name not in _FIRST
    ]
    return [name for name in names if len({each.get(name) for each in settings}) > 1]


def _labels(settings):
    """The fewest settings that tell all groups apart."""
    if len(settings) == 1:
        shown = [settings[0].get(name, "?") for name in ("dataset", "model")]
        return [", ".join([*shown, settings[0].get("algorithm", "?")])]
    names = [name for name in differing(settings) if name not in _SAME]
    labels: list[Any] = [()] * len(settings)
    for name in names:
        more = [
            (*label, _said(name, each.get(name, ABSENT)))
            for label, each in zip(labels, settings, strict=True)
        ]
        if len(set(more)) > len(set(labels)):
            labels = more
    return [", ".join(label) for label in labels]


def _said(name, value):
    name = name.removeprefix("hparam ")
    return value if name in ("algorithm", "dataset", "model") else f"{name}={value}"


def labels_of(runs: Sequence[Run]) -> list[str]:
    """PM, TM, GM: those that any run scored."""
    return [
        label
        for label in LABELS
        if any(f"{label}/accuracy" in row for run in runs for row in run.rows[-1:])
    ]


def curve(of: Group, name: str) -> Curve | None:
    """A quantity over rounds; `None` if no round has it in every run.

    Args:
      of: the group.
      name: a name of metrics.jsonl.
    """
    each = [
        {row["round"]: row[name] for row in run.rows if number(row, name) is not None}
        for run in of.runs
    ]
    rounds = sorted(set.intersection(*map(set, each)))
    if not rounds:
        return None
    values = np.array([[own[round_] for round_ in rounds] for own in each])
    return Curve(
        np.array(rounds), values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    )


def remarks(groups: Sequence[Group]) -> list[str]:
    """Sentences about runs that stand in the way of each other."""
    found = []
    for each in groups:
        seeds = [run.seed for run in each.runs]
        if len(set(seeds)) < len(seeds):
            found.append(
                f"{each.label}: some runs have the same seed ({', '.join(seeds)}); a "
                "mean over them counts it more than once."
            )
        ends = {run.rows[-1]["round"] if run.rows else 0 for run in each.runs}
        if len(ends) > 1:
            found.append(
                f"{each.label}: runs have come to different rounds "
                f"({', '.join(map(str, sorted(ends)))}); curves end where the first "
                "one does, and the table compares different rounds."
            )
    return found
