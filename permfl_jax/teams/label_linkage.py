"""Devices with alike shares of classes go together: average linkage of histograms.

The distance is the total variation between shares of classes; the tree is cut into M
clusters, and devices join the teams whose clusters' means are near. As in FL+HC (Briggs
et al., IJCNN 2020, arXiv:2004.11791), there of updates.
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import groups, histograms
from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, label_counts: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """Cuts the tree, then fills teams of the sizes that are asked for.

    Args:
      rng: unused; nothing is drawn.
      label_counts: `[D, C]`.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32.
    """
    del rng
    if len(team_sizes) == 1:
        return np.zeros(len(label_counts), np.int32)
    points = histograms.shares(label_counts)

    def distance_to(members):
        centre = points[members].mean(axis=0)
        return np.abs(points - centre[None]).sum(axis=1) / 2

    return groups.from_tree(histograms.tree(label_counts), team_sizes, distance_to)


label_linkage = Formation(
    assign,
    sees="labels",
    reveals="the counts of its labels, C numbers, once",
    most_devices=groups.MOST_DEVICES,
)
