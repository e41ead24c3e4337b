"""Each device chooses the model that fits its samples best, as in IFCA.

M models are trained to differ (`probes.Probe`); a device goes to the team of the one
under which its loss is least, or to the next best where that team is full.

Reference: Ghosh et al., NeurIPS 2020, arXiv:2006.04088.
"""

from collections.abc import Sequence

import numpy as np

from permfl_jax.teams import groups
from permfl_jax.teams.formation import Formation


def assign(
    rng: np.random.Generator, losses: np.ndarray, team_sizes: Sequence[int]
) -> np.ndarray:
    """Teams of the sizes that are asked for, those who lose most choosing first.

    Args:
      rng: unused; nothing is drawn.
      losses: `[D, M]`, of each device under each model.
      team_sizes: `[M]`.

    Returns:
      `[D]` int32.
    """
    del rng
    return groups.fill(losses, team_sizes)


loss_choice = Formation(
    assign,
    sees="losses",
    reveals="its loss under each of M models, and an update of one in each round",
)
