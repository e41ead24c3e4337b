"""Teams of neighbours: the first devices are team 0, the next ones team 1."""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, label_counts: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """Cuts the devices, in their order, into blocks of the given sizes.

    Args:
      rng: unused; nothing is drawn.
      label_counts: unused.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32, non-decreasing.
    """
    del rng, label_counts
    return np.repeat(np.arange(len(team_sizes), dtype=np.int32), team_sizes)


consecutive = Formation(assign)
