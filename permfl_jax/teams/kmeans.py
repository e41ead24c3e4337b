"""k-means with the starts of k-means++.

Reference: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding",
SODA 2007. scipy.cluster.vq.kmeans2 warns of an empty cluster where devices coincide.
"""

import numpy as np

_STARTS, _STEPS = 10, 100


def centres(rng: np.random.Generator, points: np.ndarray, number: int) -> np.ndarray:
    """Where Lloyd's steps end, from the best of ten starts.

    Args:
      rng: of the starts.
      points: `[D, F]`.
      number: M.

    Returns:
      `[M, F]`.
    """
    found = [_cluster(rng, points, number) for _ in range(_STARTS)]
    return min(found, key=lambda one: one[0])[1]


def squares(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """`[D, M]` squared distances; of D·M numbers, not of D·M·F.

    Args:
      points: `[D, F]`.
      centres: `[M, F]`.
    """
    lengths = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)[None]
    return np.maximum(lengths - 2 * points @ centres.T, 0)


def _cluster(rng, points, number):
    """The sum of squares and the `[M, F]` centres where Lloyd's steps end."""
    centres = points[rng.integers(len(points))][None]
    near = np.inf
    while len(centres) < number:
        near = np.minimum(near, squares(points, centres[-1:])[:, 0])
        total = near.sum()
        chance = near / total if total > 0 else None
        new = rng.choice(len(points), p=chance)
        centres = np.concatenate([centres, points[new][None]])
    for _ in range(_STEPS):
        own = squares(points, centres).argmin(axis=1)
        moved = np.stack(
            [
                points[own == i].mean(axis=0) if (own == i).any() else centres[i]
                for i in range(number)
            ]
        )
        if np.array_equal(moved, centres):
            break
        centres = moved
    return squares(points, centres).min(axis=1).sum(), centres
