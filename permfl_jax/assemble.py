"""A `Federation` from a dataset: partition, teams, split."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.partitions import FOLLOW_WINDOWS, MAKE_TEAMS, PARTITIONS
from permfl_jax.partitions.ownership import Ownership, digest
from permfl_jax.partitions.partition import PartitionOptions, sliding_windows
from permfl_jax.split import split
from permfl_jax.teams import FORMATIONS
from permfl_jax.types import Federation


class Assembled(NamedTuple):
    """What `build` makes.

    Attributes:
      federation: with pools `{'x': [S', ...], 'y': [S']}`.
      report: that of the partition; `partition` and `formation`, their names; `team`,
        the team of each device before sorting; and `sha256`, the digest of
        `ownership`.
      ownership: who has which rows of the dataset, and in which team.
    """

    federation: Federation
    report: dict[str, Any]
    ownership: Ownership


def build(
    examples: Examples,
    *,
    team_sizes: Sequence[int],
    partition: str | None = None,
    formation: str | None = None,
    validation_fraction: float = 0.10,
    test_fraction: float = 0.15,
    seed: int = 0,
    **numbers: Any,
) -> Assembled:
    """Makes a federation of a dataset: partition, teams, split.

    The three steps draw from streams of their own, so another formation leaves the
    data of every device as it was (unless it chooses their classes), and another
    fraction leaves the teams.

    Args:
      examples: a dataset.
      team_sizes: `[M]`, devices of each team.
      partition: a key of `PARTITIONS`; by default `default_partition`.
      formation: a key of `FORMATIONS`; by default `default_formation`.
      validation_fraction: see `split`.
      test_fraction: see `split`.
      seed: a non-negative integer.
      **numbers: those of `PartitionOptions`, for instance `classes_per_device`; each
        is ignored by partitions that do not read it.

    Returns:
      The federation, a report and who has what.

    Raises:
      InputError: for an unknown name, or what the three steps refuse.

    Examples:
      >>> from permfl_jax import data, federation
      >>> digits = data.load('digits', data.SourceOptions())
      >>> built = build(digits, team_sizes=(2, 3), classes_per_device=3)
      >>> federation.team_sizes(built.federation)
      (2, 3)
      >>> built.report['partition'], built.report['formation']
      ('paper', 'random')
    """
    partition = partition or default_partition(examples)
    formation = formation or default_formation(partition)
    sizes = _sizes(team_sizes, len(examples.y))
    options = PartitionOptions(team_sizes=sizes, **numbers)
    cut = _look_up("--partition", partition, PARTITIONS)
    form = _look_up("--team_formation", formation, FORMATIONS)
    windows = _windows(partition, formation, form, options, examples.num_classes)
    options = dataclasses.replace(options, class_windows=windows)
    indices, report = cut(np.random.default_rng([seed, 1]), examples, options)
    counts = _label_counts(examples, indices)
    team = form.assign(np.random.default_rng([seed, 2]), counts, sizes)
    rng = np.random.default_rng([seed, 3])
    parts = split(rng, indices, validation_fraction, test_fraction)
    ownership = Ownership(*parts, team=team)
    report |= {"partition": partition, "formation": formation}
    report |= {"team": team.tolist(), "sha256": digest(ownership)}
    return Assembled(_federation(examples, ownership), report, ownership)


def default_partition(examples: Examples) -> str:
    """`natural` or `domains` where the dataset names owners or groups, else `paper`."""
    if examples.device is not None:
        return "natural"
    return "paper" if examples.group is None else "domains"


def default_formation(partition: str) -> str:
    """`consecutive` for a partition that makes teams, which `random` would destroy."""
    return "consecutive" if partition in MAKE_TEAMS else "random"


def _sizes(team_sizes, samples):
    """As plain numbers; before anything is allocated for so many devices."""
    sizes = tuple(int(size) for size in team_sizes)
    if sum(sizes) > samples:
        raise InputError(
            f"{sum(sizes)} devices were to share {samples} samples, but each needs at "
            "least one: lower --devices_per_team."
        )
    return sizes


def _windows(partition, formation, form, options, num_classes):
    """The classes each device may hold; `None` if the partition does not ask."""
    if partition in FOLLOW_WINDOWS:
        choose = form.class_windows or _sliding
        return choose(options.team_sizes, options.classes_per_device, num_classes)
    if form.class_windows is not None:
        raise InputError(
            f"--team_formation={formation} chooses the classes of each device, which "
            f"--partition={partition} does not follow; choose --partition from "
            f"{sorted(FOLLOW_WINDOWS)} or another --team_formation."
        )
    return None


def _look_up(flag, name, registry):
    if name not in registry:
        raise InputError(
            f"{flag}={name} was given, but it is one of {sorted(registry)}."
        )
    return registry[name]


def _sliding(sizes, classes_per_device, num_classes):
    return sliding_windows(sum(sizes), classes_per_device, num_classes)


def _label_counts(examples, indices):
    """`[D, C]` int64."""
    return np.stack(
        [np.bincount(examples.y[d], minlength=examples.num_classes) for d in indices]
    )


def _federation(examples, ownership):
    *parts, team = ownership
    train, validation, test = (
        [{"x": examples.x[rows], "y": examples.y[rows]} for rows in part]
        for part in parts
    )
    return from_arrays(
        train,
        team,
        validation=validation,
        test=test,
        num_classes=examples.num_classes,
    )
