"""From groups of alike devices to teams of the sizes that are asked for."""

from collections.abc import Callable, Sequence

import numpy as np

from permfl_jax.teams import trees

MOST_DEVICES = 5_000  # whose pairs are compared: 100 MB in float32, 200 in float64


def from_tree(
    tree: np.ndarray,
    team_sizes: Sequence[int],
    distance_to: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Cuts a tree into M groups, then fills teams of the sizes that are asked for.

    Args:
      tree: `[D - 1, 4]`, of `trees`.
      team_sizes: `[M]`, sum D.
      distance_to: `(members [D] bool) -> [D]`, of each device to the middle of a group;
        at most 2.

    Returns:
      `[D]` int32.
    """
    own = trees.cut(tree, len(team_sizes))
    # Ties may leave fewer groups; nobody is near those that are not there.
    distance = np.full((len(own), len(team_sizes)), 2.0)
    for i in np.unique(own):
        distance[:, i] = distance_to(own == i)
    return fill(distance, team_sizes)


def fill(distance: np.ndarray, team_sizes: Sequence[int]) -> np.ndarray:
    """Puts devices into teams of given sizes, near ones first.

    Those who lose most by their second choice choose first; a team that is full is
    nobody's choice any more.

    Args:
      distance: `[D, M]`, of each device to each cluster.
      team_sizes: `[M]`, sum D. The cluster that most devices are nearest to becomes the
        largest team, and so on; of equals, the first.

    Returns:
      `[D]` int32.
    """
    wanted = np.bincount(distance.argmin(axis=1), minlength=len(team_sizes))
    cluster = np.argsort(-wanted, kind="stable")
    place = np.argsort(-np.asarray(team_sizes), kind="stable")
    cost = np.empty_like(distance, dtype=float)
    cost[:, place] = distance[:, cluster]
    left = np.array(team_sizes)
    team = np.full(len(cost), -1, np.int32)
    waiting = np.arange(len(cost))
    while waiting.size:
        now = np.where(left > 0, cost[waiting], np.inf)
        best = now.argmin(axis=1)
        second = np.partition(now, 1, axis=1)[:, 1] if now.shape[1] > 1 else now[:, 0]
        loss = second - now.min(axis=1)  # infinite where one team is left
        order = np.argsort(-loss, kind="stable")
        # As many of each team's choosers as it has room for; the rest choose again.
        chosen = best[order]
        rank = np.zeros(len(order), int)
        for i in np.unique(chosen):
            own = chosen == i
            rank[own] = np.arange(own.sum())
        taken = order[rank < left[chosen]]
        team[waiting[taken]] = best[taken]
        left -= np.bincount(best[taken], minlength=len(left))
        waiting = np.delete(waiting, taken)
    return team
