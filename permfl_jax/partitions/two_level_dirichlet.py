"""Label skew on both levels: teams differ, and devices differ around their team.

With p the classes' shares of the dataset and C the number of classes that have
examples, team i and its device j want the class distributions

    q_i  ~ Dirichlet(team_alpha C p)        q_ij ~ Dirichlet(device_alpha C q_i)

so that E q_i = p and E q_ij = q_i. With balanced classes `C p` is 1 for every class,
the usual Dirichlet(team_alpha). Large team_alpha: teams are alike; large
device_alpha: the devices of a team are. Both small: one class for each device.
Teams are consecutive blocks of devices, as `--devices_per_team` says: keep them with
`--team_formation=consecutive`, or destroy them with `random`, as a control.

What the devices want together is not what there is. All devices take at the same
speed, each in the proportions that it wants, until a class runs out; from then on
each takes the other classes in the proportions that it wants those (or, if it wants
none of them, as they are left), and so on: at most C stages. So every example is used
once, all devices get S / D examples (to within C, by rounding), and the report says
how far they are from what they wanted. Few teams cannot be as different as they want
and still use everything: 4 teams of 10 devices on ten equal classes want, at 0.5 and
1, distributions at a distance (total variation) of 0.46 from p and get 0.36, at
team_alpha = 0.1 they want 0.72 and get 0.49 (means of 20 draws); the distance of the
devices from their team stays as wanted, 0.25 and 0.13 to 0.15.

References:
  Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated
  Visual Classification", arXiv:1909.06335, for one level, q ~ Dirichlet(α p). Reddi
  et al., "Adaptive Federated Optimization", arXiv:2003.00295, appendix C, who draw
  without replacement and renormalise when a class runs out; there devices take in
  turn and the last ones get the leftovers, here none comes before another.
"""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.partitions.dealing import (
    deal,
    draw_dirichlet,
    fill_up_teams,
    shuffled_classes,
)
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize


def two_level_dirichlet(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Deals `examples` by the law above; see the module.

    Args:
      rng: the only source of randomness.
      examples: has `y` `[S]` integers and `num_classes`.
      options: has `team_sizes`, `team_alpha`, `device_alpha` and `min_samples`.

    Returns:
      The partition; it uses every example. The report adds `samples_moved`, within
      teams, to reach `min_samples`, and `distance_from_law`: the share of a device's
      examples that are of other classes than it wanted, mean over the devices.

    Raises:
      InputError: if a team has fewer examples than devices.
    """
    class_sizes = np.bincount(examples.y, minlength=examples.num_classes)
    wanted = draw_wanted(rng, class_sizes, options)
    rows = shuffled_classes(rng, examples.y, examples.num_classes)
    dealt = deal(rows, taken(wanted, class_sizes))
    indices, moved = fill_up_teams(rng, dealt, options.team_sizes, options.min_samples)
    got = np.stack([np.bincount(examples.y[d], minlength=len(rows)) for d in indices])
    got = got / got.sum(axis=1, keepdims=True)
    report = summarize(
        indices,
        len(examples.y),
        samples_moved=moved,
        distance_from_law=float(np.abs(got - wanted).sum(axis=1).mean() / 2),
    )
    return Partition(indices, report)


def draw_wanted(
    rng: np.random.Generator, class_sizes: np.ndarray, options: PartitionOptions
) -> np.ndarray:
    """`[D, C]` float64: q_ij of every device, team by team."""
    average = class_sizes * (class_sizes > 0).sum() / class_sizes.sum()  # C p
    around = np.tile(options.team_alpha * average, (len(options.team_sizes), 1))
    teams = np.repeat(draw_dirichlet(rng, around), options.team_sizes, axis=0)
    return draw_dirichlet(rng, options.device_alpha * (class_sizes > 0).sum() * teams)


def taken(wanted: np.ndarray, supply: np.ndarray) -> np.ndarray:
    """What devices that take at the same speed have when nothing is left.

    Args:
      wanted: `[D, C]`, each row with sum 1.
      supply: `[C]`, what there is of each class.

    Returns:
      `[D, C]` float64; columns sum to `supply` and rows to `sum(supply) / D`.
    """
    left = supply.astype(np.float64)
    total = np.zeros_like(wanted)
    while left.any():  # each stage ends at least one class
        rate = np.where(left > 0, wanted, 0.0)
        rate = np.where(rate.any(axis=1, keepdims=True), rate, left)
        rate = rate / rate.sum(axis=1, keepdims=True)
        drain = rate.sum(axis=0)
        time = np.divide(left, drain, out=np.full(len(left), np.inf), where=drain > 0)
        first = np.argmin(np.where(left > 0, time, np.inf))
        total += rate * time[first]
        left = np.maximum(left - drain * time[first], 0.0)
        left[first] = 0.0
    return total
