"""Trees of average linkage, for the rules that put alike devices together.

scipy.cluster takes longer to import than all of permfl_jax, and most runs form no such
teams: it is loaded where it is called.
"""

import numpy as np


def of_points(points: np.ndarray) -> np.ndarray:
    """Average linkage by the sum of absolute differences.

    Args:
      points: `[D, C]`, D at least 2.

    Returns:
      `[D - 1, 4]`, as of `scipy.cluster.hierarchy.linkage`.
    """
    from scipy.cluster import hierarchy

    return hierarchy.linkage(points, "average", metric="cityblock")


def of_distances(distances: np.ndarray) -> np.ndarray:
    """Average linkage of devices whose distances are known.

    Args:
      distances: `[D, D]`, symmetric, 0 on the diagonal, D at least 2.

    Returns:
      `[D - 1, 4]`, as of `scipy.cluster.hierarchy.linkage`.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial import distance

    return hierarchy.linkage(distance.squareform(distances, checks=False), "average")


def cut(tree: np.ndarray, num_groups: int) -> np.ndarray:
    """`[D]`, each device's group from 0; ties may leave fewer than asked for.

    Args:
      tree: `[D - 1, 4]`.
      num_groups: the most.
    """
    from scipy.cluster import hierarchy

    return hierarchy.fcluster(tree, num_groups, "maxclust") - 1


def leaves(tree: np.ndarray) -> np.ndarray:
    """`[D]`, the devices from left to right: alike ones stand side by side.

    Args:
      tree: `[D - 1, 4]`.
    """
    from scipy.cluster import hierarchy

    return hierarchy.leaves_list(tree)
