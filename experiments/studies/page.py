"""What a study shows: a picture, and tables in Markdown."""

import itertools
from collections.abc import Sequence
from typing import Any

from .. import report_svg
from ..intervals import Interval
from . import points
from .points import Point
from .study import Curve, Study

_ROOM = 0.2  # accuracy
_ASIDE = 0.1  # of the way to the next place
_FAR = 20  # times the least value: on a plain axis nothing else could be told apart
_BESIDE = 0.7  # of the room of places: a legend's beside them


def picture(
    study: Study, found: Sequence[Point], curves: Sequence[Curve], title: str
) -> bytes:
    """A PNG: a panel for each exact one, then PM, TM and GM of each measured one.

    Args:
      study: what was asked.
      found: points, with what was measured.
      curves: exact lines.
      title: above it.
    """
    exact = list(dict.fromkeys(curve.panel for curve in curves))
    measured = list(dict.fromkeys(point.arm.panel for point in found))
    across = len(points.LABELS)
    first = -(-len(exact) // across)
    last = first + len(measured)
    rows = last + -(-len(study.by_bytes) // across)
    # A measured line looks the same wherever it is drawn.
    looks = {line: n for n, line in enumerate(dict.fromkeys(p.arm.line for p in found))}

    def draw(figure):
        axes = figure.subplots(rows, across, squeeze=False)
        for panel, axis in zip(exact, axes.flat, strict=False):
            own = [c for c in curves if c.panel == panel]
            _exact_panel(axis, study, panel, own, looks)
        used = last * across + len(study.by_bytes)
        for axis in (*axes.flat[len(exact) : first * across], *axes.flat[used:]):
            axis.set_visible(False)
        for panel, row in zip(measured, axes[first:last], strict=True):
            own = [point for point in found if point.arm.panel == panel]
            for label, axis in zip(points.LABELS, row, strict=True):
                _panel(axis, study, label, own, looks)
        for (panel, way), axis in zip(study.by_bytes, axes[last:].flat, strict=False):
            own = [point for point in found if point.arm.panel == panel]
            _bytes_panel(axis, own, way, looks)
        figure.suptitle(title, fontsize=10)

    size = (4.2 * across, 3.2 * rows)
    return report_svg.drawing("study", title, draw, size).png


def _exact_panel(axis, study, panel, curves, looks):
    taken = {looks[curve.line] for curve in curves if curve.line in looks}
    free = (number for number in itertools.count() if number not in taken)
    for curve in curves:
        axis.plot(
            _places(curve.at, curve.at),
            curve.values,
            markersize=3.5,
            label=curve.line,
            **_look(looks[curve.line] if curve.line in looks else next(free)),
        )
    values = [value for curve in curves for value in curve.values]
    if min(values) > 0 and max(values) >= _FAR * min(values):
        axis.set_yscale("log")
        report_svg.plain_ticks(axis)
    _finish(axis, study, panel, curves[0].at)
    axis.set_title(f"exact: {panel}", fontsize=9)


def _look(number):
    mark = report_svg.MARKS[number % len(report_svg.MARKS)]
    return {"color": report_svg.colour(number), "marker": mark}


def _panel(axis, study, label, found, looks):
    panel = found[0].arm.panel
    order = list(dict.fromkeys(point.arm.at for point in found))
    lines: dict[str, list[tuple[float | str, Interval]]] = {}
    for point in found:
        if (mean := points.mean(point, label)) is not None:
            lines.setdefault(point.arm.line, []).append((point.arm.at, mean))
    far = _far_below({name: [m.mean for _, m in own] for name, own in lines.items()})
    # Between names there is nothing, so that lines stand side by side.
    named = isinstance(order[0], str)
    all_lines = list(dict.fromkeys(point.arm.line for point in found))
    for place, line in enumerate(all_lines):
        there = lines.get(line)
        aside = _ASIDE * (place - (len(all_lines) - 1) / 2) if named else 0
        if line in far and there:
            ends = [f"{100 * f(m.mean for _, m in there):.0f}" for f in (min, max)]
            span = " to ".join(dict.fromkeys(ends))
            axis.plot([], [], " ", label=f"{line}:\nbelow, {span} %")
        elif there:
            axis.errorbar(
                [x + aside for x in _places([at for at, _ in there], order)],
                [100 * mean.mean for _, mean in there],
                yerr=[100 * (mean.half or 0) for _, mean in there],
                markersize=4,
                capsize=2,
                linestyle="" if named else "-",
                label=line,
                **_look(looks[line]),
            )
    _finish(axis, study, panel, order)
    axis.set_ylabel(f"{label}, test accuracy, %")
    axis.set_title(panel, fontsize=9)


def _far_below(lines: dict[str, list[float]]) -> set[str]:
    """Lines that would leave the others no room: all of them is 20 points lower."""
    if not lines:
        return set()
    best = max(max(values) for values in lines.values())
    near = {name for name, values in lines.items() if max(values) > best - _ROOM}
    lowest = min(min(lines[name]) for name in near)
    return {name for name, values in lines.items() if max(values) < lowest - _ROOM}


# What is drawn over the bytes of a tier.
_WAYS = {"team_up": ("GM", "team to server"), "device_up": ("PM", "device to team")}


def _bytes_panel(axis, found, way, looks):
    label, name = _WAYS[way]
    for line in dict.fromkeys(point.arm.line for point in found):
        own = [p for p in found if p.arm.line == line and f"bytes/{way}" in p.bytes_]
        there = sorted(
            (p.bytes_[f"bytes/{way}"], m.mean)
            for p in own
            if (m := points.mean(p, label))
        )
        if there and there[0][0] > 0:
            axis.plot(
                [sent / 1e6 for sent, _ in there],
                [100 * mean for _, mean in there],
                markersize=4,
                label=line,
                **_look(looks[line]),
            )
    axis.set(
        xscale="log", xlabel=f"MB sent, {name}", ylabel=f"{label}, test accuracy, %"
    )
    axis.set_title(f"{found[0].arm.panel}: over bytes", fontsize=9)
    report_svg.plain_ticks(axis)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)


def _places(at, order):
    """Numbers as they are; names by their order."""
    return [x if isinstance(x, int | float) else order.index(x) for x in at]


def _finish(axis, study, panel, order):
    from matplotlib import ticker

    axis.set_xlabel(study.axes[panel][0])
    axis.set_ylabel(study.axes[panel][1])
    if isinstance(order[0], str):
        axis.set_xticks(range(len(order)), order, rotation=30, ha="right")
    elif min(order) > 0 and max(order) >= 4 * min(order):
        axis.set_xscale("log")
        axis.set_xticks(order, [f"{x:g}" for x in order])
        axis.xaxis.set_minor_locator(ticker.NullLocator())
    if axis.get_legend_handles_labels()[0]:
        named = isinstance(order[0], str)
        if named:  # points stand anywhere between
            axis.set_xlim(-0.5, len(order) * (1 + _BESIDE) - 0.5)
        axis.legend(fontsize=7, loc="center right" if named else "best")


def table(study: Study, found: Sequence[Point], curves: Sequence[Curve]) -> str:
    """Markdown: exact curves, then a table for each panel.

    Args:
      study: what was asked.
      found: points, with what was measured.
      curves: exact lines.
    """
    parts = [_exact_table(study, panel, curves) for panel in _panels(curves)]
    measured = dict.fromkeys(point.arm.panel for point in found)
    parts += [
        _panel_table(study, panel, [p for p in found if p.arm.panel == panel])
        for panel in measured
    ]
    return "\n\n".join(parts)


def _panels(curves):
    return dict.fromkeys(curve.panel for curve in curves)


def _exact_table(study, panel, curves):
    own = [curve for curve in curves if curve.panel == panel]
    what, value = study.axes[panel]
    rows = [
        [text(at), *(f"{curve.values[i]:.4g}" for curve in own)]
        for i, at in enumerate(own[0].at)
    ]
    return f"**Exact: {panel}** ({value})\n\n" + _markdown(
        [what, *(curve.line for curve in own)], rows
    )


_COLUMNS: dict[str, tuple[str, str]] = {
    "PM": ("PM", "accuracy"),
    "TM": ("TM", "accuracy"),
    "GM": ("GM", "accuracy"),
    "PM, worst decile": ("PM", "worst_decile_accuracy"),
    "PM, macro-F1": ("PM", "macro_f1"),
    "GM, macro-F1": ("GM", "macro_f1"),
}


def _panel_table(study, panel, found):
    base = {point.arm.at: point for point in reversed(found)}  # the first line's
    head = [study.axes[panel][0], "", *_COLUMNS, "PM − first", "GM − first"]
    head += ["GM at 95 %", "team-to-server MB", "device-to-team MB", "chosen for PM"]
    head += ["remark"] * bool(study.remark)
    rows = []
    for point in found:
        row, seeds = [text(point.arm.at), point.arm.line], points.seeds(point)
        row += [_percent(points.mean(point, *w), of=seeds) for w in _COLUMNS.values()]
        for label in ("PM", "GM"):
            first = base[point.arm.at]
            apart = None if first is point else points.difference(point, first, label)
            row.append(_percent(apart, signed=True, of=seeds))
        row.append(_number(point.arrived))
        row += [_megabytes(point.bytes_, way) for way in ("team_up", "device_up")]
        row.append(_setting(point))
        row += [point.remark] * bool(study.remark)
        rows.append(row)
    return f"**{panel}** (test, %, ± 95 % interval over seeds)\n\n" + _markdown(
        head, rows
    )


def _markdown(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(at: Any) -> str:
    """A place of an axis, in words."""
    return at if isinstance(at, str) else f"{at:g}"


def _percent(found: Interval | None, signed: bool = False, of: int = 0) -> str:
    """With how many seeds did not diverge, if any of them did."""
    if found is None:
        return "–"
    text = f"{100 * found.mean:{'+' if signed else ''}.2f}"
    text += "" if found.half is None else f" ± {100 * found.half:.2f}"
    return f"{text} ({found.count} of {of})" if found.count < of else text


def _number(found: Interval | None) -> str:
    return "–" if found is None else f"{found.mean:.3g}"


def _megabytes(sent: dict[str, float], way: str) -> str:
    found = sent.get(f"bytes/{way}")
    return "–" if found is None else f"{found / 1e6:.3g}"


def _setting(point: Point) -> str:
    chosen = point.chosen.get("PM") or point.chosen.get("GM") or {}
    if len(point.arm.settings) == 1:
        return ""
    return ", ".join(f"{name}={value:.3g}" for name, value in chosen.items())
