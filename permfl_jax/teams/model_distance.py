"""Devices whose models end near each other go together: k-means on trained models.

All models start from the same one, so that distances between models are those between
their changes. As in multi-centre federated learning (Xie et al., arXiv:2005.01026), in
one shot.
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import groups, kmeans
from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, updates: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """k-means, then teams of the sizes that are asked for.

    Args:
      rng: of the starts.
      updates: `[D, P]`.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32.
    """
    points = updates.astype(np.float64)
    points -= points.mean(axis=0, keepdims=True)  # what all share only costs digits
    centres = kmeans.centres(rng, points, len(team_sizes))
    return groups.fill(kmeans.squares(points, centres), team_sizes)


model_distance = Formation(
    assign, sees="updates", reveals="its first update, a model, in each formation round"
)
