"""The straight part of a curve of errors on a log scale, and its rate."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from . import intervals
from .intervals import Interval

_FLAT = 0.5  # a tail whose second half is above this share of its first has stopped
_ABOVE = 30.0  # times the floor: below that the floor bends the line
_ROUNDING = 1e-12  # of the first error: below that float64 bends it
_FEWEST = 5  # rounds of a straight part


class Line(NamedTuple):
    """A straight part: errors of `first` to `last` fall by `rate` a round.

    Attributes:
      first: number of its first error.
      last: one after its last.
      rate: ρ, from the least squares line through the logarithms.
    """

    first: int
    last: int
    rate: float


def fit(errors: np.ndarray) -> Line | None:
    """Fits the last third of the rounds before the floor.

    The rounds before hold what decays faster than the slowest direction. The floor is
    the median of the last tenth, where that has stopped falling, or that of float64.

    Args:
      errors: `[T]`, above 0 but for the last ones.

    Returns:
      The line, or `None` where fewer than 5 rounds are left.

    Examples:
      >>> line = fit(0.9 ** np.arange(100) + 1e-3)
      >>> (line.first, line.last), round(line.rate, 2)
      ((21, 32), 0.9)
    """
    lowest = max(_ABOVE * floor(errors), _ROUNDING * errors[0])
    low = np.flatnonzero(~(errors > lowest))
    last = int(low[0]) if len(low) else len(errors)
    first = 2 * last // 3
    if last - first < _FEWEST:
        return None
    return Line(first, last, slope(errors, first, last))


def slope(errors: np.ndarray, first: int, last: int) -> float:
    """The factor of one round, by least squares over `errors[first:last]`."""
    logs = np.log(errors[first:last])
    rounds = np.arange(len(logs)) - (len(logs) - 1) / 2
    return float(np.exp(rounds @ logs / (rounds @ rounds)))


def floor(errors: np.ndarray) -> float:
    """Where the errors stopped falling; 0 if they did not."""
    tenth = max(len(errors) // 10, 1)
    tail = np.median(errors[-tenth:])
    before = np.median(errors[-2 * tenth : -tenth]) if len(errors) > tenth else np.inf
    return float(tail) if tail > _FLAT * before else 0.0


def rates(errors: Iterable[np.ndarray]) -> Interval | None:
    """The mean rate over the seeds, with its 95 % interval.

    Args:
      errors: `[T]` of each seed.
    """
    lines = [fit(each) for each in errors]
    return intervals.interval([None if line is None else line.rate for line in lines])


def tier_rates(metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    """Those of w and θ, from their distances to where they end, `[R, T]`."""
    found = {tier: rates(metrics[f"{tier}/to_limit"]) for tier in ("team", "device")}
    return {tier: rate and rate._asdict() for tier, rate in found.items()}
