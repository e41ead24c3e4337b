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
_TRAINED = ("updates", "losses")  # what rules see that models must be trained for


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
    known: dict[str, Any] | None = None,
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
      known: `report` of this build earlier; teams found by training are taken from it.
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
    cut = _look_up("--partition", partition, PARTITIONS)
    form = _look_up("--team_formation", formation, FORMATIONS)
    options = PartitionOptions(team_sizes=sizes, **numbers)
    options = _windowed(partition, formation, form, options, examples.num_classes)
    cut_rng, form_rng, split_rng = (np.random.default_rng([seed, i]) for i in (1, 2, 3))
    indices, report = cut(cut_rng, examples, options)
    parts = split(split_rng, indices, validation_fraction, test_fraction)
    before = Ownership(*parts, team=_in_order(sizes))
    team, *sent = _teams(form_rng, formation, examples, before, look, known)
    ownership = before._replace(team=team)
    report |= _formed(partition, formation, sent, ownership)
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


def _found_before(known, sizes):
    """`[D]` int32 and the bytes, as a report has them, which may be damaged."""
    team = known.get("team")
    sent = known.get("formation_bytes_up"), known.get("formation_bytes_down")
    sound = isinstance(team, list) and all(type(x) is int for x in (*team, *sent))
    if not sound or sorted(team) != _in_order(sizes).tolist():
        raise InputError(
            "the teams that were recorded are damaged: they are not those of "
            f"{len(sizes)} teams of {sum(sizes)} devices; choose another --workdir."
        )
    return np.array(team, np.int32), *sent


def _formed(partition, formation, sent, ownership):
    """The teams, what it cost to find them, and how true they are."""
    team = ownership.team
    formed = {
        "partition": partition,
        "formation": formation,
        "reveals": FORMATIONS[formation].reveals,
        "formation_bytes_up": sent[0],
        "formation_bytes_down": sent[1],
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


def _windowed(partition, formation, form, options, num_classes):
    """With the classes each device may hold, if the partition asks; all checked."""
    form.check(options.team_sizes)
    if form.needs_truth and partition not in MAKE_TEAMS:
        raise InputError(
            f"--team_formation={formation} needs teams that are true, which "
            f"--partition={partition} does not make; choose --partition from "
            f"{sorted(MAKE_TEAMS)} or another --team_formation."
        )
    if partition in FOLLOW_WINDOWS:
        choose = form.class_windows or _sliding
        windows = choose(options.team_sizes, options.classes_per_device, num_classes)
        return dataclasses.replace(options, class_windows=windows)
    if form.class_windows is not None:
        raise InputError(
            f"--team_formation={formation} chooses the classes of each device, which "
            f"--partition={partition} does not follow; choose --partition from "
            f"{sorted(FOLLOW_WINDOWS)} or another --team_formation."
        )
    return options


def _look_up(flag, name, registry):
    if name not in registry:
        raise InputError(
            f"{flag}={name} was given, but it is one of {sorted(registry)}."
        )
    return registry[name]


def _sliding(sizes, classes_per_device, num_classes):
    return sliding_windows(sum(sizes), classes_per_device, num_classes)


def _teams(rng, formation, examples, before, look, known):
    """`[D]` int32, and the bytes up and down that it took to find them."""
    form, sizes = FORMATIONS[formation], tuple(np.bincount(before.team).tolist())
    if known and form.sees in _TRAINED:
        return _found_before(known, sizes)
    seen, up, down = _seen(form, formation, examples, before, look)
    return form.assign(rng, seen, sizes), up, down


def _seen(
    form: Formation,
    formation: str,
    examples: Examples,
    before: Ownership,
    look: Look | None,
) -> Seen:
    """What the rule is shown of the devices, in their order before they had teams."""
    if form.sees not in _TRAINED:
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
