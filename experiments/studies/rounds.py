"""Accuracy over rounds, as the paper draws it, beside how far GM is predicted to go."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from .. import report_svg
from ..intervals import Interval, interval
from . import page, points
from .points import Point
from .study import Curve, Study


class Step(NamedTuple):
    """An accuracy after some rounds.

    Attributes:
      round: how many.
      found: over the seeds.
    """

    round: int
    found: Interval


def steps(point: Point, label: str) -> list[Step]:
    """The way of a label, of the setting that was chosen for it.

    Args:
      point: an arm with what was measured.
      label: PM, TM or GM.

    Returns:
      Rounds that some seed reached; none where the method has no such model.
    """
    by_round: dict[int, list[float | None]] = {}
    for curve in point.scores.get(label, {}).get("curve", ()):
        for number, value in curve:
            by_round.setdefault(number, []).append(value)
    means = ((number, interval(some)) for number, some in sorted(by_round.items()))
    return [Step(number, mean) for number, mean in means if mean is not None]


def way(gain: float, rounds: Sequence[int]) -> list[float]:
    """1 - (1 - g)^t: how far GM is after t rounds that each take a share g of the rest.

    Args:
      gain: g.
      rounds: t.
    """
    return [1 - (1 - gain) ** t for t in rounds]


def picture(
    study: Study, found: Sequence[Point], curves: Sequence[Curve], title: str
) -> bytes:
    """A PNG: for each line of the panels of `study.over_rounds` GM's way, PM, TM, GM.

    Args:
      study: what was asked.
      found: points, with what was measured.
      curves: exact lines.
      title: above it.
    """
    exact_of = dict(study.over_rounds)
    rows: dict[tuple[str, str], list[Point]] = {}
    for point in found:
        if point.arm.panel in exact_of:
            rows.setdefault((point.arm.panel, point.arm.line), []).append(point)
    lines = collections.Counter(panel for panel, _ in rows)

    def draw(figure):
        axes = figure.subplots(len(rows), 1 + len(points.LABELS), squeeze=False)
        for (panel, line), (first, *rest) in zip(rows, axes, strict=True):
            own = rows[panel, line]
            name = f"{panel}, {line}" if lines[panel] > 1 else panel
            gains = [curve for curve in curves if curve.panel == exact_of[panel]]
            _predicted(first, own, gains, name)
            for label, axis in zip(points.LABELS, rest, strict=True):
                _measured(axis, own, label, name)
            # Once for the three, in the first of the models that the method has.
            named = [axis for axis in rest if axis.lines]
            for axis in named[:1]:
                _explain(axis, study.axes[panel][0])
        figure.suptitle(title, fontsize=10)

    size = (3.6 * (1 + len(points.LABELS)), 2.8 * len(rows))
    return report_svg.drawing("rounds", title, draw, size).png


def _predicted(axis, own, gains, name):
    seen = [
        step.round for p in own for label in points.LABELS for step in steps(p, label)
    ]
    rounds = range(max(seen, default=0) + 1)
    for dash, curve in zip(report_svg.DASHES, gains, strict=False):
        known = dict(zip(curve.at, curve.values, strict=True))
        for number, at in enumerate(point.arm.at for point in own):
            if at in known:
                colour = report_svg.colour(number)
                axis.plot(rounds, way(known[at], rounds), dash, color=colour)
        # Colours are places, as in the panels beside it.
        axis.plot([], [], dash, color=report_svg.MIDDLE, label=curve.line)
    axis.set_visible(bool(gains))
    axis.set_title(f"predicted: {name}", fontsize=9)
    axis.set(xlabel="rounds", ylabel="share of GM's way")
    _explain(axis)


def _measured(axis, own, label, name):
    for number, point in enumerate(own):
        seen = steps(point, label)
        if not seen:
            continue
        rounds, colour = [step.round for step in seen], report_svg.colour(number)
        mean = [100 * step.found.mean for step in seen]
        half = [100 * (step.found.half or 0) for step in seen]
        place = page.text(point.arm.at)
        axis.plot(rounds, mean, ".-", color=colour, label=place)
        low = [max(m - h, 0.0) for m, h in zip(mean, half, strict=True)]
        high = [min(m + h, 100.0) for m, h in zip(mean, half, strict=True)]
        axis.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set_title(name, fontsize=9)
    axis.set(xlabel="rounds", ylabel=f"{label}, test accuracy, %")


def _explain(axis, title=None):
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, title=title, title_fontsize=7)
