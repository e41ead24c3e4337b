"""No class in two teams: the hardest case for the global model.

References:
  Table 2 of PerMFL, arXiv:2407.14251: two teams hold classes 0-4 and 5-9.
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import consecutive
from permfl_jax.teams.formation import Formation, windows_in_blocks


def class_windows(
    team_sizes: Sequence[int], classes_per_device: int, num_classes: int
) -> np.ndarray:
    """Windows inside M disjoint blocks of neighbouring classes, as equal as can be.

    Args:
      team_sizes: `[M]`.
      classes_per_device: J, at most the classes of the smallest block.
      num_classes: C.

    Returns:
      `[D, J]` int64, team by team.

    Raises:
      InputError: if a team would have fewer than J classes.
    """
    blocks = np.array_split(np.arange(num_classes), len(team_sizes))
    return windows_in_blocks(blocks, team_sizes, classes_per_device)


worst_case = Formation(consecutive.assign, class_windows)
