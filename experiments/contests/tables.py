"""The rows of a comparison's tables, and their CSV, JSON and Markdown."""

import csv
import io
from typing import Any

from ..intervals import interval, paired
from . import published
from .columns import Column
from .scores import LABELS, SCORES

BASE = "permfl"  # to which every method is compared
ROLES = {"majority": "floor", "local": "floor", "pooled": "ceiling"}

Row = dict[str, Any]
Cells = dict[str, dict[str, Any]]


def rows(column: Column, cells: Cells) -> list[Row]:
    """One flat row for each method of a column, floors first, ceiling last.

    Args:
      column: its flags.
      cells: method to its finished cell.

    Returns:
      Accuracies in percent. What a method does not have is `None`.
    """
    any_cell = next(iter(cells.values()))
    majority = {
        "column": column.name,
        "method": "majority",
        "role": "floor",
        "PM_mean": 100 * any_cell["majority_accuracy"],
    }
    order = {"floor": 0, "method": 1, "ceiling": 2}
    found = [_row(column, method, cells) for method in cells]
    found.sort(key=lambda row: order[row["role"]])
    names = list(dict.fromkeys(name for row in [*found, majority] for name in row))
    return [{name: row.get(name) for name in names} for row in [majority, *found]]


def _row(column, method, cells):
    cell, base = cells[method], cells.get(BASE, {"labels": {}})
    row: Row = {
        "column": column.name,
        "method": method,
        "role": ROLES.get(method, "method"),
    }
    for label in LABELS:
        own, other = cell["labels"].get(label), base["labels"].get(label)
        row |= _score(label, own)
        row |= _difference(label, own, None if method == BASE else other)
        if own is not None and "best_accuracy" in own:
            row |= _named(f"{label}_best", own["best_accuracy"])
            number = published.published(column.config, method, label)
            row[f"{label}_published"] = number
    return row | _cost(cell)


def _score(label, own):
    """Of one label: mean, interval, values of the seeds, the setting chosen for it."""
    if own is None:
        own = dict.fromkeys(SCORES, ()) | {"hparams": None, "diverged": {}}
    found = _named(label, own["accuracy"])
    for score in SCORES[1:]:
        mean = interval(own[score])
        short = score.removesuffix("_accuracy")
        found[f"{label}_{short}"] = mean and 100 * mean.mean
    found[f"{label}_values"] = _texts(own["accuracy"])
    found[f"{label}_from"] = own.get("source")
    found[f"{label}_diverged"] = "; ".join(
        f"seed {seed}: {text}" for seed, text in own["diverged"].items()
    )
    edges = own.get("on_edge", ())
    found[f"{label}_hparams"] = " ".join(
        f"{name}={value:.4g}{'*' * (name in edges)}"
        for name, value in (own["hparams"] or {}).items()
    )
    return found


def _named(name, values):
    """Mean and interval in percent."""
    found = interval(values)
    half = None if found is None or found.half is None else 100 * found.half
    return {
        f"{name}_mean": found and 100 * found.mean,
        f"{name}_interval": half,
        f"{name}_seeds": found.count if found else 0,
    }


def _texts(values):
    return " ".join("-" if value is None else f"{100 * value:.3f}" for value in values)


def _difference(label, own, other):
    """Points above PerMFL, seed by seed."""
    name = f"{label}_minus_{BASE}"
    if own is None or other is None:
        return {f"{name}_mean": None, f"{name}_interval": None}
    score = "best_accuracy" if "best_accuracy" in own else "accuracy"
    found = paired(own[score], other[score])
    if found is None:
        return {f"{name}_mean": None, f"{name}_interval": None}
    half = None if found.half is None else 100 * found.half
    return {f"{name}_mean": 100 * found.mean, f"{name}_interval": half}


def _cost(cell):
    """Bytes of a round by tier, of the setting chosen for the first label."""
    first = next(iter(cell["labels"].values()), {})
    sent = first.get("traffic")
    found: Row = {"parameters": cell["parameters"]}
    for tier in ("device", "team"):
        for way in ("up", "down"):
            name = f"{tier}_{way}"
            found[f"{name}_bytes"] = sent and sent[name] * cell["model_bytes"]
    found["bytes_in_all"] = sent and (
        sum(sent.values()) * cell["model_bytes"] * cell["rounds"]
    )
    found["gradients_per_round"] = cell["gradients_per_round"]
    found["team_steps"] = cell["team_steps"]
    found["tuning_seconds"] = cell["seconds"].get("tuning")
    found["final_seconds"] = cell["seconds"].get("final")
    found["all_diverged"] = cell.get("all_diverged")
    found["commit"], found["machine"] = cell["commit"], cell["machine"]
    return found


def as_csv(found: list[Row]) -> str:
    """All rows of all columns; an empty field where a row has nothing."""
    names = list(dict.fromkeys(name for row in found for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    return text.getvalue()


def as_markdown(found: list[Row], protocol: str) -> str:
    """The table of one column."""
    columns = _PAPER if protocol == "paper" else _FAIR
    lines = [
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for row in found:
        cells = [str(show(row)) for show in columns.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(row: Row, name: str, signed: bool = False) -> str:
    """`97.12 ± 0.30`, or without an interval where there is none, or `–`."""
    mean, half = row.get(f"{name}_mean"), row.get(f"{name}_interval")
    if mean is None:
        return "diverged" if _ended(row, name) else "–"
    text = f"{mean:+.2f}" if signed else f"{mean:.2f}"
    return text if half is None else f"{text} ± {half:.2f}"


def _ended(row, name):
    return bool(row.get(f"{name}_diverged")) or row.get("all_diverged") is not None


def _label(label):
    def show(row):
        text = shown(row, label)
        ended = row.get(f"{label}_diverged") or ""
        count = len(ended.split("; ")) if ended else 0
        remark = f" ({count} diverged)" if count and text != "diverged" else ""
        mark = "†" if row.get(f"{label}_from") == "PM_adapted" else ""
        return text + mark + remark

    return show


def _differences(row):
    parts = [
        f"{label} {shown(row, f'{label}_minus_{BASE}', signed=True)}"
        for label in LABELS
        if row.get(f"{label}_minus_{BASE}_mean") is not None
    ]
    return "; ".join(parts) or "–"


def _chosen(row):
    """The setting of each label; labels that chose the same share a line."""
    by_text: dict[str, list[str]] = {}
    for label in LABELS:
        if row.get(f"{label}_hparams"):
            by_text.setdefault(row[f"{label}_hparams"], []).append(label)
    return "<br>".join(f"{', '.join(v)}: {k}" for k, v in by_text.items()) or "–"


def _megabytes(row):
    if row.get("bytes_in_all") is None:
        return "–"
    device = row["device_up_bytes"] + row["device_down_bytes"]
    team = row["team_up_bytes"] + row["team_down_bytes"]
    total = row["bytes_in_all"]
    return f"{device / 1e6:.3g} + {team / 1e6:.3g}; {total / 1e6:,.4g}"


def _worst(row):
    parts = [
        f"{label} {mean:.1f} / {row[f'{label}_worst_decile']:.1f}"
        for label in LABELS
        if (mean := row.get(f"{label}_device_mean")) is not None
    ]
    return "; ".join(parts) or "–"


def _seconds(row):
    times = (row.get("tuning_seconds"), row.get("final_seconds"))
    return " + ".join(f"{t:.0f}" for t in times if t is not None) or "–"


def _published(label):
    def show(row):
        number = row.get(f"{label}_published")
        return "" if number is None else f"{number:.2f}"

    return show


def _name(row):
    role = row["role"]
    return row["method"] if role == "method" else f"{row['method']} ({role})"


_COSTS = {
    "difference to PerMFL": _differences,
    "hyper-parameters": _chosen,
    "MB a round: devices + teams; in all": _megabytes,
    "gradients a round": lambda row: row.get("gradients_per_round") or "–",
    "seconds": _seconds,
}
_FAIR = {
    "method": _name,
    **{label: _label(label) for label in LABELS},
    "device mean / worst decile": _worst,
    **_COSTS,
}
_PAPER = {
    "method": _name,
    **{
        title: show
        for label in LABELS
        for title, show in (
            (f"{label} best", lambda row, name=f"{label}_best": shown(row, name)),
            (f"{label} last", _label(label)),
            (f"{label} published", _published(label)),
        )
        if (label, title) != ("TM", "TM published")  # there is none
    },
    **_COSTS,
}
