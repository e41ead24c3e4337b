"""Means over seeds, and how far they can be trusted."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and half the width of its confidence interval.

    Attributes:
      mean: of the values that are there.
      half: Student's t times the standard error; `None` for a single value.
      count: how many values.
    """

    mean: float
    half: float | None
    count: int


def interval(values: Sequence[float | None]) -> Interval | None:
    """The mean of R seeds with its 95 % interval, as of normal values.

    Args:
      values: one for each seed; `None` where the seed diverged, which does not count.

    Returns:
      `None` if every seed diverged.
    """
    there = np.array([value for value in values if value is not None], float)
    if not there.size:
        return None
    half = None
    if there.size > 1:
        quantile = stats.t.ppf((1 + LEVEL) / 2, there.size - 1)
        half = float(quantile * there.std(ddof=1) / math.sqrt(there.size))
    return Interval(float(there.mean()), half, there.size)


def paired(
    ours: Sequence[float | None], base: Sequence[float | None]
) -> Interval | None:
    """The mean of `ours - base`, seed by seed: what both share cancels.

    Args:
      ours: one for each seed, `None` where it diverged.
      base: of the same seeds in the same order.
    """
    return interval(
        [
            None if a is None or b is None else a - b
            for a, b in zip(ours, base, strict=True)
        ]
    )
