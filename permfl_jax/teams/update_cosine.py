"""Devices whose first updates point the same way go together.

The distance of two devices is 1 - cos of the changes that their first steps made to the
one initial model; the tree of average linkage is cut into M groups, and devices join
those whose mean points their way. The signal is that of clustered federated learning
(Sattler et al., arXiv:1910.01991), the tree that of FL+HC (Briggs et al., IJCNN 2020,
arXiv:2004.11791).
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import groups, trees
from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, updates: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """Cuts the tree, then fills teams of the sizes that are asked for.

    Args:
      rng: unused; nothing is drawn.
      updates: `[D, P]`. One that is 0 is as far from all as a right angle.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32.
    """
    del rng
    if len(team_sizes) == 1:
        return np.zeros(len(updates), np.int32)
    points = _directions(updates)
    apart = np.clip(1 - points @ points.T, 0, 2)
    np.fill_diagonal(apart, 0)
    tree = trees.of_distances(apart)

    def distance_to(members):
        centre = points[members].mean(axis=0, keepdims=True)
        return 1 - points @ _directions(centre)[0]

    return groups.from_tree(tree, team_sizes, distance_to)


def _directions(rows):
    """Of length 1; what is 0 stays 0."""
    rows = rows.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


update_cosine = Formation(
    assign,
    sees="updates",
    reveals="its first update, a model, in each formation round",
    most_devices=groups.MOST_DEVICES,
)
