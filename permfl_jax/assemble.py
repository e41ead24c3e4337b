"""A `Federation` from a dataset: partition, teams, split."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.partitions import FOLLOW_WINDOWS, MAKE_TEAMS, PARTITIONS
from permfl_jax.partitions.ownership import Ownership, digest
from permfl_jax.partitions.partition import PartitionOptions, sliding_windows
from permfl_jax.split import split
from permfl_jax.teams import FORMATIONS, agreement
from permfl_jax.teams.formation import Formation, Seen
from permfl_jax.types import Federation

# `(what a rule sees, federation) -> Seen`: `probes.Probe.look`.
Look = Callable[[str, Federation], Seen]


class Assembled(NamedTuple):
    """What `build` makes.

    Attributes:
      federation: with pools `{'x': [S', ...], 'y': [S']}`.
      report: that of the partition; `partition` and `formation`, their names;
        `reveals`, `formation_bytes_up` and `_down`, what devices told and were told for
        it; `team`, the team of each device before sorting, and `adjusted_rand`, its
        agreement with the teams of a partition that makes teams; and `sha256`, the
        digest of `ownership`.
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
    look: Look | None = None,
    **numbers: Any,
) -> Assembled:
    """Makes a federation of a dataset: partition, split, teams.

    The three steps draw from streams of their own: another formation leaves each device
    its data, unless it chooses their classes.

    Args:
      examples: a dataset.
      team_sizes: `[M]`, devices of each team.
      partition: a key of `PARTITIONS`; by default `default_partition`.
      formation: a key of `FORMATIONS`; by default `default_formation`.
      validation_fraction: see `split`.
      test_fraction: see `split`.
      seed: not negative.
      look: shows trained models to rules that compare some: `probes.Probe.look`.
      **numbers: of `PartitionOptions`; partitions ignore those they do not read.

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
    shares = validation_fraction, test_fraction
    parts = split(np.random.default_rng([seed, 3]), indices, *shares)
    before = Ownership(*parts, team=_in_order(sizes))
    seen = _seen(form, formation, examples, before, look)
    rng = np.random.default_rng([seed, 2])
    ownership = before._replace(team=form.assign(rng, seen.rows, sizes))
    report |= _formed(partition, formation, seen, ownership)
    return Assembled(_federation(examples, ownership), report, ownership)


def default_partition(examples: Examples) -> str:
    """`natural` or `domains` where the dataset names owners or groups, else `paper`."""
    if examples.device is not None:
        return "natural"
    return "paper" if examples.group is None else "domains"


def default_formation(partition: str) -> str:
    """`consecutive` for a partition that makes teams, which `random` would destroy."""
    return "consecutive" if partition in MAKE_TEAMS else "random"


def _in_order(sizes):
    """`[D]` int32: the first devices in team 0, and so on."""
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def _formed(partition, formation, seen, ownership):
    """The teams, what it cost to find them, and how true they are."""
    team = ownership.team
    formed = {
        "partition": partition,
        "formation": formation,
        "reveals": FORMATIONS[formation].reveals,
        "formation_bytes_up": seen.up,
        "formation_bytes_down": seen.down,
    }
    if partition in MAKE_TEAMS:
        truth = np.sort(team)  # the partition made them in order, of these sizes
        formed["adjusted_rand"] = agreement.adjusted_rand(team, truth)
    return formed | {"team": team.tolist(), "sha256": digest(ownership)}


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
    if form.needs_truth and partition not in MAKE_TEAMS:
        raise InputError(
            f"--team_formation={formation} needs teams that are true, which "
            f"--partition={partition} does not make; choose --partition from "
            f"{sorted(MAKE_TEAMS)} or another --team_formation."
        )
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


def _seen(
    form: Formation,
    formation: str,
    examples: Examples,
    before: Ownership,
    look: Look | None,
) -> Seen:
    """What the rule is shown of the devices, in their order before they had teams."""
    if form.sees in ("nothing", "labels"):
        # Of training samples alone: teams must not know what devices are tested on.
        counts = [
            np.bincount(examples.y[rows], minlength=examples.num_classes)
            for rows in before.train
        ]
        sent = 4 * len(counts) * examples.num_classes if form.sees == "labels" else 0
        return Seen(np.stack(counts), sent, 0)
    if look is None:
        raise InputError(
            f"--team_formation={formation} compares trained models: give "
            "assemble.build a `look`, of probes.Probe."
        )
    return look(form.sees, _federation(examples, before))


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
