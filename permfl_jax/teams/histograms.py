"""What rules of team formation by labels share: who is like whom."""

import numpy as np

from permfl_jax.teams import trees


def shares(label_counts: np.ndarray) -> np.ndarray:
    """`[D, C]`, of each device's samples in each class.

    Args:
      label_counts: `[D, C]`.
    """
    total = np.maximum(label_counts.sum(axis=1, keepdims=True), 1)
    return label_counts / total


def tree(label_counts: np.ndarray) -> np.ndarray:
    """Average linkage of devices by the total variation between their shares.

    Args:
      label_counts: `[D, C]`, of at least 2 devices.
    """
    return trees.of_points(shares(label_counts) / 2)
