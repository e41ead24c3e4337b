"""Tables of a report as HTML. Whatever comes from a file goes through `text`."""

import html
import os
import shlex
import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from permfl_jax.evaluate import LABELS

from . import intervals, report_figures, report_groups, report_maps
from .report_folder import Run, number
from .report_groups import ABSENT, Group

_PERCENT = ("accuracy", "device_mean_accuracy", "worst_decile_accuracy")
_FLOORS = {"local": "floor: each device alone", "majority": "floor: majority label"}
_LONGEST = 4000  # characters of one text
_SHORT = 24  # characters that stay in one line
_MOST_NUMBERS = 60  # device numbers in one cell


def text(value: object) -> str:
    """Anything as HTML that shows it, and does nothing else."""
    shown = str(value)
    if len(shown) > _LONGEST:
        shown = shown[:_LONGEST] + " …"
    return html.escape("".join(c if c.isprintable() else " " for c in shown))


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], marked: int = 0
) -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
      caption: what it shows; plain text, as all cells are.
      head: of each column.
      rows: cells; the first of each row is its heading.
      marked: how many of the first rows stand out.
    """
    heads = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = []
    for place, (first, *rest) in enumerate(rows):
        cells = "".join(map(_cell, rest))
        kind = ' class="differs"' if place < marked else ""
        body.append(f'<tr{kind}><th scope="row">{text(first)}</th>{cells}</tr>')
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{text(caption)}">'
        f"<table><caption>{text(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(value):
    kind = ' class="short"' if len(str(value)) <= _SHORT else ""
    return f"<td{kind}>{text(value)}</td>"


def headline(groups: Sequence[Group]) -> str:
    """PM, TM and GM at the last round, the best round by validation, and the floors."""
    head = ["model", "test accuracy, %", "mean of devices", "worst 10 %", "loss"]
    head.append("best by validation")
    parts = []
    for group in groups:
        labels = report_groups.labels_of(group.runs)
        rows = [_scores(group, label) for label in labels]
        rows += [row for floor in _FLOORS if (row := _floor(group, floor))]
        ends = sorted({run.rows[-1]["round"] for run in group.runs if run.rows})
        where = f"round {', '.join(map(str, ends))}" if ends else "no round yet"
        seeds = ", ".join(run.seed for run in group.runs)
        caption = f"{group.label}: {where}, seed{'s' * (len(group.runs) > 1)} {seeds}"
        parts.append(table(caption, head, rows))
    return "".join(parts)


def _scores(group, label):
    cells = []
    for name in (*_PERCENT, "loss"):
        values = [run.rows[-1].get(f"{label}/{name}") for run in group.runs if run.rows]
        cells.append(_mean(values, name != "loss"))
    best = [
        (
            number(run.summary, "best_by_validation", label, "accuracy"),
            number(run.summary, "best_by_validation", label, "round"),
        )
        for run in group.runs
    ]
    shown = _mean([accuracy for accuracy, _ in best], True)
    rounds = sorted({int(round_) for _, round_ in best if round_ is not None})
    if rounds:
        shown += f" (round {', '.join(map(str, rounds))})"
    return [f"{label}, {LABELS[label]}", *cells, shown]


def _floor(group, floor):
    cells = [
        _mean([number(run.summary, "floors", f"{floor}/{n}") for run in group.runs], p)
        for n, p in (*((name, True) for name in _PERCENT), ("loss", False))
    ]
    return None if cells[0] == ABSENT else [_FLOORS[floor], *cells, ABSENT]


def _mean(values, percent):
    """With its 95 % interval, where there are several."""
    there = [value for value in values if value is not None and np.isfinite(value)]
    found = intervals.interval(there)
    if found is None:
        return ABSENT
    scale, form = (100, ".2f") if percent else (1, ".3f")
    shown = f"{found.mean * scale:{form}}"
    if found.half is not None:
        shown += f" ± {found.half * scale:{form}}"
    return shown


def sent(groups: Sequence[Group]) -> str:
    """Bytes of one round by tier and direction, and of the whole run."""
    head = ["setting", "devices send", "devices receive", "teams send", "teams receive"]
    rows = []
    for group in groups:
        last = next((run.rows[-1] for run in group.runs if run.rows), {})
        values = [number(last, f"bytes/{part}") for part in report_figures.SENT]
        there = [value for value in values if value is not None]
        if len(there) < len(values) or not last["round"]:
            rows.append([group.label, *["not recorded"] * 5])
            continue
        cells = [_bytes(value / last["round"]) for value in there]
        rows.append([group.label, *cells, _bytes(sum(there))])
    return table("Bytes per global round", [*head, "in all, whole run"], rows)


def _bytes(number_):
    size, unit = report_figures.byte_unit(number_)
    return f"{number_ / size:,.4g} {unit}"


def settings(groups: Sequence[Group]) -> str:
    """Every flag of every group, those that differ between runs first."""
    runs = [run for group in groups for run in group.runs]
    differ = report_groups.differing([run.settings for run in runs])
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    order = [*differ, *(name for name in names if name not in differ)]
    rows = []
    for name in order:
        cells = []
        for group in groups:
            values = [run.settings.get(name, ABSENT) for run in group.runs]
            cells.append(", ".join(dict.fromkeys(values)))
        rows.append([name, *cells])
    one = len(groups) == 1
    head = ["flag", *(["value"] if one else [group.label for group in groups])]
    caption = "Settings"
    if differ:
        caption += f"; the first {len(differ)} differ between runs"
    return table(caption, head, rows, len(differ))


def commands(runs: Sequence[Run]) -> str:
    """What was typed for each run."""
    blocks = []
    for run in runs:
        line = _command(run.config.get("command"))
        shown = f'<pre tabindex="0"><code>{text(line)}</code></pre>'
        absent = "<p>config.json does not tell.</p>"
        blocks.append(f"<h3>{text(run.name)}</h3>{shown if line else absent}")
    return "".join(blocks)


def _command(recorded):
    """The command line with the module instead of where its file lay."""
    if not isinstance(recorded, list) or len(recorded) < 2:
        return None
    program, *args = map(str, recorded[1:])
    folder, file = os.path.split(program)
    module = file.removesuffix(".py")
    if file != module:
        package = "permfl_jax." * (
            os.path.basename(os.path.dirname(folder)) == "permfl_jax"
        )
        start = ["python", "-m", f"{package}experiments.{module}"]
    else:
        start = [file]
    return shlex.join([*start, *args])


def origin(runs: Sequence[Run]) -> str:
    """Commit, machine and versions; one column where they are the same for all."""
    found = {}
    for run in runs:
        facts = {"commit": run.config.get("git_commit") or "not recorded"}
        for part, prefix in (("machine", "machine "), ("versions", "")):
            inner = run.config.get(part)
            if isinstance(inner, dict):
                facts |= {f"{prefix}{name}": value for name, value in inner.items()}
        shown = {name: str(value) for name, value in facts.items()}
        found.setdefault(tuple(shown.items()), []).append(run.name)
    columns = [(dict(facts), names) for facts, names in found.items()]
    names = dict.fromkeys(name for facts, _ in columns for name in facts)
    rows = [[n, *(facts.get(n, ABSENT) for facts, _ in columns)] for n in names]
    head = ["", *(", ".join(names) for _, names in columns)]
    return table("Made by", head, rows)


def teams(run: Run) -> str:
    """Devices and samples of each team, and the devices' numbers."""
    assert run.owned is not None
    team, samples = run.owned.team, report_maps.samples_of(run)
    rows = []
    for place in range(int(team.max()) + 1):
        (own,) = np.nonzero(team == place)
        held = samples[own].tolist() or [0]
        spread = f"{min(held)} / {statistics.median(held):g} / {max(held)}"
        shown = ", ".join(map(str, own[:_MOST_NUMBERS].tolist()))
        if len(own) > _MOST_NUMBERS:
            shown += f", and {len(own) - _MOST_NUMBERS} more"
        rows.append([place, len(own), sum(held), spread, shown])
    head = ["team", "devices", "samples", "of a device: least / median / most"]
    return table("Members of teams", [*head, "numbers of the devices"], rows)
