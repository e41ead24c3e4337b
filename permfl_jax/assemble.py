"""A `Federation` from a dataset: partition, teams, split."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.partitions import FOLLOW_WINDOWS, PARTITIONS
from permfl_jax.partitions.partition import PartitionOptions, sliding_windows
from permfl_jax.split import split
from permfl_jax.teams import FORMATIONS
from permfl_jax.types import Federation


def build(
    examples: Examples,
    *,
    team_sizes: Sequence[int],
    partition: str = "paper",
    formation: str = "random",
    classes_per_device: int = 2,
    validation_fraction: float = 0.10,
    test_fraction: float = 0.15,
    seed: int = 0,
) -> tuple[Federation, dict[str, Any]]:
    """Makes a federation of a dataset: partition, teams, split.

    The three steps draw from streams of their own, so another formation leaves the
    data of every device as it was (unless it chooses their classes), and another
    fraction leaves the teams.

    Args:
      examples: has `x` `[S, ...]`, `y` `[S]` integers, `num_classes`, and `device`
        `[S]` integers or `None`, the owners that the dataset names.
      team_sizes: `[M]`, devices of each team.
      partition: a key of `PARTITIONS`.
      formation: a key of `FORMATIONS`.
      classes_per_device: J; ignored by partitions that do not follow windows.
      validation_fraction: see `split`.
      test_fraction: see `split`.
      seed: a non-negative integer.

    Returns:
      The federation, with pools `{'x': [S', ...], 'y': [S']}`, and a report: that of
      the partition, `team`, the team of each device before sorting, and `sha256` of
      that list and of who has which rows of `examples` in which part.

    Raises:
      InputError: for an unknown name, or what the three steps refuse.
    """
    sizes = _check_team_sizes(team_sizes)
    cut = _look_up("--partition", partition, PARTITIONS)
    form = _look_up("--team_formation", formation, FORMATIONS)
    windows = _windows(partition, formation, form, sizes, classes_per_device, examples)
    options = PartitionOptions(num_devices=sum(sizes), class_windows=windows)
    indices, report = cut(np.random.default_rng([seed, 1]), examples, options)
    counts = _label_counts(examples, indices)
    team = form.assign(np.random.default_rng([seed, 2]), counts, sizes)
    rng = np.random.default_rng([seed, 3])
    parts = split(rng, indices, validation_fraction, test_fraction)
    train, validation, test = ([_take(examples, d) for d in part] for part in parts)
    report = {**report, "team": team.tolist(), "sha256": _digest(parts, team)}
    devices = from_arrays(
        train, team, validation=validation, test=test, num_classes=examples.num_classes
    )
    return devices, report


def _windows(partition, formation, form, sizes, classes_per_device, examples):
    """The classes each device may hold; `None` if the partition does not ask."""
    if partition in FOLLOW_WINDOWS:
        choose = form.class_windows or _sliding
        return choose(sizes, classes_per_device, examples.num_classes)
    if form.class_windows is not None:
        raise InputError(
            f"--team_formation={formation} chooses the classes of each device, which "
            f"--partition={partition} does not follow; choose --partition from "
            f"{sorted(FOLLOW_WINDOWS)} or another --team_formation."
        )
    return None


def _check_team_sizes(sizes):
    sizes = tuple(int(size) for size in sizes)
    if not sizes or min(sizes) < 1:
        raise InputError(
            f"Teams of {list(sizes)} devices were asked for, but at least one team is "
            "needed and at least one device in each (--devices_per_team)."
        )
    return sizes


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


def _take(examples, rows):
    return {"x": examples.x[rows], "y": examples.y[rows]}


def _digest(parts, team):
    """SHA-256 of everything that was drawn, the same on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        # The sizes too: they say where one device ends and the next begins.
        for rows in ([len(device) for device in part], *part):
            digest.update(np.asarray(rows, "<i8").tobytes())
    digest.update(np.asarray(team, "<i8").tobytes())
    return digest.hexdigest()
