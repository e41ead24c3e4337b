"""From the rows of all members to the numbers of a cell."""

import math
from collections.abc import Sequence
from typing import Any

from .grids import Setting

# What is reported, and where it is read. Adapted first: a method has such models where
# those that it stores are none, or those of absent devices out of date.
LABELS = {"PM": ("PM_adapted", "PM"), "TM": ("TM",), "GM": ("GM",)}
SCORES = ("accuracy", "device_mean_accuracy", "worst_decile_accuracy")

Rows = Sequence[dict[str, Any]]


def prefix_of(rows: Rows, label: str, split: str = "test") -> str | None:
    """With what the label's scores begin in a row; `None` if the method has none.

    Args:
      rows: of `Population.train`.
      label: `PM`, `TM` or `GM`.
      split: `validation` or `test`.
    """
    middle = "" if split == "test" else f"{split}/"
    for source in LABELS[label]:
        if any(f"{source}/{middle}accuracy" in row for row in rows):
            return f"{source}/{middle}"
    return None


def tuning(rows: Rows, settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """What validation says of each setting at the last round, a mean over its seeds.

    A setting of which one seed diverged has `diverged` and no numbers.
    """
    last = {row["member"]: row for row in rows}
    found = []
    for setting in settings:
        own = [row for row in last.values() if row["hparams"] == setting]
        ended = [row["diverged"] for row in own if "diverged" in row]
        result: dict[str, Any] = {"hparams": setting}
        if ended:
            result["diverged"] = ended[0]
        else:
            result["validation"] = {
                label: math.fsum(row[f"{prefix}accuracy"] for row in own) / len(own)
                for label in LABELS
                if (prefix := prefix_of(own, label, "validation"))
            }
        found.append(result)
    return found


def chosen(tuned: Sequence[dict[str, Any]]) -> dict[str, int]:
    """For each label the setting with its best validation accuracy.

    Args:
      tuned: from `tuning`.

    Returns:
      Label to number of the setting, the first of equals; those that diverged lose.
    """
    best = {}
    for label in LABELS:
        accuracy = {
            number: result["validation"][label]
            for number, result in enumerate(tuned)
            if label in result.get("validation", {})
        }
        if accuracy:
            best[label] = max(accuracy, key=accuracy.__getitem__)
    return best


def last_round(rows: Rows, label: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Test scores of one setting at the last round, one for each seed.

    Args:
      rows: of that setting.
      label: `PM`, `TM` or `GM`.
      seeds: in the order of the result.

    Returns:
      Each score as a list, `None` where the seed diverged; what diverged; and, when
      there were more evaluations, accuracy by round.
    """
    prefix = prefix_of(rows, label)
    runs = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    ended = {
        str(seed): run[-1]["diverged"]
        for seed, run in zip(seeds, runs, strict=True)
        if "diverged" in run[-1]
    }
    found: dict[str, Any] = {
        "source": prefix and prefix.rstrip("/"),
        "diverged": ended,
    }
    for score in SCORES:
        found[score] = [run[-1].get(f"{prefix}{score}") for run in runs]
    if max(map(len, runs)) > 1:
        found["curve"] = [
            [[row["round"], row.get(f"{prefix}accuracy")] for row in run]
            for run in runs
        ]
    return found


def peak(rows: Rows, label: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The best round on test of each seed, as the authors report.

    Args:
      rows: of one setting.
      label: `PM`, `TM` or `GM`.
      seeds: in the order of the result.
    """
    name = f"{prefix_of(rows, label)}accuracy"
    accuracy: list[float | None] = []
    when: list[int | None] = []
    for seed in seeds:
        run = [row for row in rows if row["seed"] == seed]
        whole = "diverged" not in run[-1]
        top = max(run, key=lambda row: row[name]) if whole else {}
        accuracy.append(top.get(name))
        when.append(top.get("round"))
    return {"best_accuracy": accuracy, "best_round": when}
