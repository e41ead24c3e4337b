"""Neighbouring teams share some classes.

References:
  Table 2 of PerMFL, arXiv:2407.14251: two teams hold classes 0-6 and 5-9, 0, 1. The
  paper gives this one example; the rule for other M and C is ours.
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import consecutive
from permfl_jax.teams.formation import Formation, windows_in_blocks

_SHARED = 2  # classes of a team beyond its equal part


def class_windows(
    team_sizes: Sequence[int], classes_per_device: int, num_classes: int
) -> np.ndarray:
    """Windows inside M overlapping blocks of neighbouring classes.

    The block of team i starts at class `i C // M`, has `ceil(C / M) + 2` classes, or
    C if that is less, and goes round from the last class to the first.

    Args:
      team_sizes: `[M]`.
      classes_per_device: J, at most the classes of a block.
      num_classes: C.

    Returns:
      `[D, J]` int64, team by team.

    Raises:
      InputError: if a team would have fewer than J classes.
    """
    num_teams = len(team_sizes)
    width = min(-(-num_classes // num_teams) + _SHARED, num_classes)
    starts = np.arange(num_teams) * num_classes // num_teams
    blocks = (starts[:, None] + np.arange(width)) % num_classes
    return windows_in_blocks(list(blocks), team_sizes, classes_per_device)


average_case = Formation(consecutive.assign, class_windows)
