"""Devices with alike shares of classes go together: k-means on label histograms.

That full teams are wanted is ours (`groups.fill`).
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import groups, histograms, kmeans
from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, label_counts: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """The best of ten k-means++ starts, then teams of the sizes that are asked for.

    Args:
      rng: of the starts.
      label_counts: `[D, C]`.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32.
    """
    points = histograms.shares(label_counts)
    centres = kmeans.centres(rng, points, len(team_sizes))
    return groups.fill(kmeans.squares(points, centres), team_sizes)


label_kmeans = Formation(
    assign, sees="labels", reveals="the counts of its labels, C numbers, once"
)
