"""How far two ways to form teams agree."""

import numpy as np


def adjusted_rand(ours: np.ndarray, truth: np.ndarray) -> float:
    """The adjusted Rand index: 1 for the same teams, 0 in the mean of random ones.

    Args:
      ours: `[D]`, the team of each device; names do not matter.
      truth: `[D]`, likewise.

    Returns:
      1 where both have a single team, or each device alone in both.

    References:
      Hubert and Arabie, "Comparing partitions", Journal of Classification 1985.

    Examples:
      >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
      1.0
      >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
      -0.5
    """
    _, ours = np.unique(ours, return_inverse=True)
    _, truth = np.unique(truth, return_inverse=True)
    table = np.zeros((ours.max() + 1, truth.max() + 1))
    np.add.at(table, (ours, truth), 1)

    def pairs(counts):
        return float((counts * (counts - 1) / 2).sum())

    together, whole = pairs(table), pairs(np.array([len(ours)]))
    first, second = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    # All times the pairs there are: whole numbers, so that equal is equal.
    expected = first * second
    apart = whole * (first + second) / 2 - expected
    return 1.0 if apart == 0 else (together * whole - expected) / apart
