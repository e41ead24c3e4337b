"""Teams drawn by lot: every way to fill them is equally likely."""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, label_counts: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """Draws the team of each device without replacement.

    Args:
      rng: the only source of randomness.
      label_counts: unused.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32.
    """
    del label_counts
    places = np.repeat(np.arange(len(team_sizes), dtype=np.int32), team_sizes)
    return rng.permutation(places)


random = Formation(assign)
