"""From the cells of a study to the points of its lines."""

import math
from typing import Any, NamedTuple

from ..intervals import Interval, interval, paired
from .study import Arm, Study

LABELS = ("PM", "TM", "GM")
# GM is taken to have arrived at this share of the best GM that it is compared with.
_ARRIVED = 0.95


class Point(NamedTuple):
    """An arm with what was measured.

    Attributes:
      arm: where it is drawn.
      scores: label to name of a score to its values, one for each seed.
      chosen: label to the setting that was best on validation.
      bytes_: sent until the last round by tier and direction, for GM's setting.
      arrived: rounds until GM has 95 % of the best of its panel, or of its place there
        (`Study.apart`); `None` if it does not, or was scored at the end alone.
      remark: of the study, on the cell.
    """

    arm: Arm
    scores: dict[str, dict[str, Any]]
    chosen: dict[str, dict[str, float]]
    bytes_: dict[str, float]
    arrived: Interval | None
    remark: str = ""


def of(
    found: list[tuple[Arm, dict[str, Any]]],
    study: Study,
) -> list[Point]:
    """All points of a study.

    Args:
      found: every arm with its cell.
      study: what was asked.
    """

    def world(point):
        return point.arm.panel, point.arm.at if study.apart else None

    remark = study.remark
    points = [
        _point(arm, cell)._replace(remark=remark(cell) if remark else "")
        for arm, cell in found
    ]
    best: dict[Any, float] = {}
    for point in points:
        own = mean(point, "GM")
        if own is not None:
            best[world(point)] = max(best.get(world(point), 0.0), own.mean)
    return [_arrive(point, best.get(world(point))) for point in points]


def mean(point: Point, label: str, score: str = "accuracy") -> Interval | None:
    """Over seeds; `None` where the method has no such model or all seeds diverged."""
    values = point.scores.get(label, {}).get(score)
    return interval(values) if values else None


def seeds(point: Point) -> int:
    """How many were trained, also those that diverged."""
    return max((len(own["accuracy"]) for own in point.scores.values()), default=0)


def difference(point: Point, base: Point, label: str) -> Interval | None:
    """Paired by seed, in accuracy."""
    ours, theirs = (p.scores.get(label, {}).get("accuracy") for p in (point, base))
    return paired(ours, theirs) if ours and theirs else None


def _point(arm, cell):
    scores, chosen, sent = {}, {}, {}
    for label in LABELS:
        tried = [
            result
            for result in cell["results"]
            if result["hparams"] in arm.settings and label in result["labels"]
        ]
        if tried:
            best = max(tried, key=lambda result: _validated(result, label))
            scores[label] = best["labels"][label]
            chosen[label] = best["hparams"]
            sent = best.get("bytes", sent)  # of GM where there is one
    return Point(arm, scores, chosen, sent, None)


def _validated(result, label):
    """Mean on validation; a setting of which a seed diverged loses."""
    values = result["labels"][label]["validation"]
    return -math.inf if None in values else math.fsum(values) / len(values)


def _arrive(point, best):
    if "GM" not in point.scores or best is None:
        return point
    rounds = []
    for curve in point.scores["GM"]["curve"]:
        if len(curve) < 2:
            return point
        there = [
            r for r, value in curve if value is not None and value >= _ARRIVED * best
        ]
        rounds.append(there[0] if there else None)
    if None in rounds:
        return point
    return point._replace(arrived=interval(rounds))
