"""Teams that exist in the data: each team holds the examples of its own groups.

The groups are what the dataset says they are: newsgroup families, hospitals, domains.
With as many teams as groups, team i holds group i. With fewer, their number divides
that of the groups, and neighbouring groups share a team. Within a team the examples
of every class are shared out by Dirichlet(α) over its devices, as in `dirichlet`.

Teams are consecutive blocks of devices, as `--devices_per_team` says: keep them with
`--team_formation=consecutive`; any other formation mixes the groups, as a control.
Devices below `--min_samples` are filled up from the largest of their own team.
Every example is used.
"""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.dealing import (
    by_owner,
    deal,
    draw_dirichlet,
    fill_up_teams,
    shuffled_classes,
)
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize


def domains(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Deals `examples` by the rule above; see the module.

    Args:
      rng: the only source of randomness; used team by team.
      examples: has `group` `[S]`, `y` `[S]` integers and `num_classes`.
      options: has `team_sizes`, `dirichlet_alpha`, α, and `min_samples`.

    Returns:
      The partition; it uses every example. The report adds `samples_moved`, within
      teams, and `groups`, their number.

    Raises:
      InputError: if the dataset names no groups, the number of teams does not divide
        theirs, or a team has fewer examples than devices.
    """
    team_rows, num_groups = _rows_of_teams(examples, len(options.team_sizes))
    indices: list[np.ndarray] = []
    for rows, size in zip(team_rows, options.team_sizes, strict=True):
        alpha = np.full((examples.num_classes, size), options.dirichlet_alpha)
        shares = draw_dirichlet(rng, alpha).T
        by_class = shuffled_classes(rng, examples.y, examples.num_classes, rows)
        indices += deal(by_class, shares)
    indices, moved = fill_up_teams(
        rng, indices, options.team_sizes, options.min_samples
    )
    report = summarize(indices, len(examples.y), samples_moved=moved, groups=num_groups)
    return Partition(indices, report)


def _rows_of_teams(examples, num_teams):
    """M arrays, the rows of each team, and the number of groups."""
    if examples.group is None:
        raise InputError(
            "--partition=domains was given, but this dataset names no groups; choose "
            "another --partition."
        )
    groups, number = np.unique(examples.group, return_inverse=True)
    if len(groups) % num_teams:
        allowed = [m for m in range(1, len(groups) + 1) if len(groups) % m == 0]
        raise InputError(
            f"--num_teams={num_teams} was given, but with --partition=domains the "
            f"{len(groups)} groups of this dataset need a number of teams from "
            f"{allowed}."
        )
    team = number * num_teams // len(groups)
    return by_owner(np.arange(len(team)), team, num_teams), len(groups)
