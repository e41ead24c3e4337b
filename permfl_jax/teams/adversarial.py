"""Every team the same mix of classes: teams in which there is nothing to find.

Devices stand in the order of the leaves of their average linkage, alike ones side by
side, and neighbours are dealt to different teams. For the global model this is the
easiest case, for team models the hardest.
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import groups, histograms, trees
from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, label_counts: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """Deals alike devices to different teams.

    Args:
      rng: unused; nothing is drawn.
      label_counts: `[D, C]`.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32.
    """
    del rng
    sizes = np.asarray(team_sizes)
    team = np.zeros(sizes.sum(), np.int32)
    if len(sizes) == 1:
        return team
    order = trees.leaves(histograms.tree(label_counts))
    # The k-th place of a team of n stands at (k + 1/2)/n of the row.
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
    dealt = np.repeat(np.arange(len(sizes)), sizes)[np.argsort(place, kind="stable")]
    team[order] = dealt
    return team


adversarial = Formation(
    assign,
    sees="labels",
    reveals="the counts of its labels, C numbers, once",
    most_devices=groups.MOST_DEVICES,
)
