"""Curves of a report: over rounds, over devices, over bytes sent."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import report_groups, report_svg
from .report_folder import Run, number
from .report_groups import Group
from .report_svg import Drawing

# Each tier's colour and marker, where a figure shows one group.
_TIERS = {"PM": 0, "PM_adapted": 4, "TM": 1, "GM": 2}
SENT = ("device_up", "device_down", "team_up", "team_down")
_MOST_STEPS = 1001  # of a curve over devices; more are quantiles
_LONG = 100.0  # from the lowest to the highest loss: more needs a logarithm
_FLOORS = (
    ("local/accuracy", "--", "each device alone"),
    ("majority/accuracy", ":", "majority label"),
)


class _Line(NamedTuple):
    """One line of a panel.

    Attributes:
      label: in the legend.
      series: its colour.
      x: `[R]`.
      y: `[R]`.
      band: `[R]` lows and highs, or `None`.
    """

    label: str
    series: int
    x: np.ndarray
    y: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None


class _Panel(NamedTuple):
    """One figure.

    Attributes:
      name: end of its name.
      title: what it shows.
      lines: at least one.
      limits: lowest and highest value, here and in the panels beside it.
      log: whether their scale is logarithmic.
    """

    name: str
    title: str
    lines: list[_Line]
    limits: tuple[float, float]
    log: bool


def curves(groups: Sequence[Group]) -> list[Drawing]:
    """Accuracy and loss on test over rounds.

    One group has a panel for each quantity, with a line for every tier; several have a
    panel for each quantity and tier, with a line for every group.
    """

    def line(group, tier, quantity, label, series):
        found = report_groups.curve(group, f"{tier}/{quantity}")
        if found is None:
            return None
        band = (found.low, found.high) if len(group.runs) > 1 else None
        return _Line(label, series, found.rounds, found.mean, band)

    drawings = []
    for quantity in ("accuracy", "loss"):
        axes = ("global round", f"test {quantity}")
        floors = _floors(groups) if quantity == "accuracy" else []
        for panel in _panels(groups, line, quantity, "over global rounds"):
            name = f"curve-{quantity}{panel.name}"
            drawings.append(_plot(name, axes, panel, floors))
    return drawings


def devices(groups: Sequence[Group]) -> list[Drawing]:
    """Test accuracy of single devices, lowest first, those of all seeds together."""

    def line(group, tier, quantity, label, series):
        del quantity
        found = np.sort(accuracies(group, tier))
        if not len(found):
            return None
        if len(found) > _MOST_STEPS:
            found = np.quantile(found, np.linspace(0, 1, _MOST_STEPS))
        steps = np.repeat(np.arange(len(found) + 1), 2)[1:-1] / len(found) * 100
        return _Line(label, series, steps, np.repeat(found, 2))

    axes = ("share of devices, %", "test accuracy of a device")
    return [
        _plot(f"devices{panel.name}", axes, panel)
        for panel in _panels(
            groups, line, "accuracy", "of single devices, lowest first"
        )
    ]


def accuracies(group: Group, tier: str) -> np.ndarray:
    """Of the devices that have test samples, in all runs of the group."""
    found = [np.zeros(0)]
    for run in group.runs:
        if run.devices is not None and tier in run.devices.correct:
            has = run.devices.count > 0
            found.append(run.devices.correct[tier][has] / run.devices.count[has])
    return np.concatenate(found)


def traffic(groups: Sequence[Group]) -> list[Drawing]:
    """Test accuracy against all bytes sent so far, on all links."""
    every = [_sent(run) for group in groups for run in group.runs]
    most = max((values[-1] for _, values in every if len(values)), default=0)
    size, unit = byte_unit(most)

    def line(group, tier, quantity, label, series):
        rounds, sent = _sent(group.runs[0])
        found = report_groups.curve(group, f"{tier}/{quantity}")
        if found is None or not len(rounds):
            return None
        known = dict(zip(rounds.tolist(), (sent / size).tolist(), strict=True))
        there = np.array([round_ in known for round_ in found.rounds.tolist()], bool)
        x = np.array([known[round_] for round_ in found.rounds[there].tolist()])
        band = (found.low[there], found.high[there]) if len(group.runs) > 1 else None
        return _Line(label, series, x, found.mean[there], band)

    axes = (f"sent so far on all links, {unit}", "test accuracy")
    return [
        _plot(f"traffic{panel.name}", axes, panel)
        for panel in _panels(groups, line, "accuracy", "against bytes sent")
    ]


def _sent(run: Run):
    """Rounds, and bytes sent until then; none where they were not recorded."""
    names = [f"bytes/{part}" for part in SENT]
    found = [
        (row["round"], sum(row[name] for name in names))
        for row in run.rows
        if all(number(row, name) is not None for name in names)
    ]
    rounds, values = zip(*found, strict=True) if found else ((), ())
    return np.array(rounds, int), np.array(values, float)


def byte_unit(most: float) -> tuple[float, str]:
    """How many bytes, and the name, of the unit that suits a number of bytes."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if most >= size:
            return size, unit
    return 1.0, "bytes"


def _panels(groups, line: Callable[..., _Line | None], quantity, what):
    """Those that have lines, on one scale."""
    runs = [run for group in groups for run in group.runs]
    tiers = report_groups.labels_of(runs)
    if len(groups) == 1:
        lines = [line(groups[0], tier, quantity, tier, _TIERS[tier]) for tier in tiers]
        panels = [("", ", ".join(tiers), lines)]
    else:
        panels = [
            (f"-{t}", t, [line(g, t, quantity, g.label, g.number) for g in groups])
            for t in tiers
        ]
    found = [
        (name, tier, there)
        for name, tier, lines in panels
        if (there := [each for each in lines if each is not None])
    ]
    drawn = [line for *_, lines in found for line in lines]
    ends = [y for line in drawn for y in (line.y, *(line.band or ()))]
    low = min((float(y.min()) for y in ends), default=0.0)
    high = max((float(y.max()) for y in ends), default=1.0)
    log = quantity == "loss" and 0 < low < high / _LONG
    return [
        _Panel(name, f"Test {quantity} of {tier} {what}", lines, (low, high), log)
        for name, tier, lines in found
    ]


def _floors(groups):
    """Horizontal lines of one group: name, dashes, value."""
    if len(groups) > 1:
        return []
    found = []
    for name, dash, label in _FLOORS:
        values = [number(run.summary, "floors", name) for run in groups[0].runs]
        there = [value for value in values if value is not None]
        if there:
            found.append((label, dash, float(np.mean(there))))
    return found


def _plot(
    name: str,
    axes: tuple[str, str],
    shown: _Panel,
    floors: Sequence[tuple[str, str, float]] = (),
) -> Drawing:
    """A panel with its legend below."""

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for each in shown.lines:
            _draw_line(panel, each)
        for label, dash, value in floors:
            panel.axhline(
                value, color=report_svg.MIDDLE, linestyle=dash, label=label, zorder=1
            )
        panel.plot([shown.lines[0].x[0]] * 2, shown.limits, alpha=0)  # one scale
        panel.set(
            xlabel=axes[0], ylabel=axes[1], yscale="log" if shown.log else "linear"
        )
        panel.margins(x=0.02)
        panel.set_xlim(left=0)
        handles, labels = panel.get_legend_handles_labels()
        columns = 1 if max(map(len, labels)) > 24 else min(len(labels), 3)
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, handlelength=1.6
        )

    extra = 0.21 * len(shown.lines) if len(shown.lines) > 3 else 0.0
    return report_svg.drawing(name, shown.title, draw, (5.0, 3.4 + extra))


def _draw_line(panel, line):
    colour = report_svg.colour(line.series)
    few = len(line.x) <= 40 and not np.any(np.diff(line.x) == 0)
    panel.plot(
        line.x,
        line.y,
        color=colour,
        linestyle=report_svg.dashes(line.series),
        marker=report_svg.MARKS[line.series % len(report_svg.MARKS)] if few else None,
        markersize=3.2,
        markevery=max(len(line.x) // 10, 1),
        label=report_svg.words(line.label),
    )
    if line.band is not None:
        panel.fill_between(
            line.x, *line.band, color=colour, alpha=0.16, linewidth=0, zorder=0.5
        )
