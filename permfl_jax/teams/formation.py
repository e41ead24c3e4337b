"""What a rule of team formation is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from permfl_jax.errors import InputError


class Seen(NamedTuple):
    """What a rule is shown of devices that have trained a little.

    Attributes:
      rows: `[D, F]`, of each device.
      up: bytes that all devices sent for it.
      down: bytes that they were sent.
    """

    rows: np.ndarray
    up: int
    down: int


class Formation(NamedTuple):
    """A rule that puts D devices into M teams, which may differ in size.

    Attributes:
      assign: `(rng, seen [D, F], team_sizes [M]) -> [D]` int32, the team of each
        device; `team_sizes` sum to D.
      class_windows: `None`, or `(team_sizes, classes_per_device, num_classes) ->
        [D, J]` int64 for a rule that chooses, before the data is cut, which classes
        each device may hold.
      sees: what `seen` is: `labels`, the counts of each device's training labels
        `[D, C]`, which is also given to rules that use `nothing`; `updates` `[D, P]`,
        how its model changed in its first steps; or `losses` `[D, M]`, under M models
        that were trained to differ.
      reveals: what each device tells the server so that teams can be formed.
      needs_truth: the partition must have made teams.
      most_devices: D for which it has time and memory; `None`: any.
    """

    assign: Callable[..., np.ndarray]
    class_windows: Callable[..., np.ndarray] | None = None
    sees: str = "nothing"
    reveals: str = "nothing"
    needs_truth: bool = False
    most_devices: int | None = None

    def check(self, team_sizes: Sequence[int]) -> None:
        """That there are not too many devices; to be asked before anything is trained.

        Args:
          team_sizes: `[M]`; for one team there is nothing to compare.

        Raises:
          InputError: there are.
        """
        devices, most = sum(team_sizes), self.most_devices
        if most is not None and devices > most and len(team_sizes) > 1:
            raise InputError(
                f"--team_formation compares all pairs of {devices} devices, and "
                f"{most:,} at most are allowed; label_kmeans and model_distance "
                "compare each with one per team."
            )


def windows_in_blocks(
    blocks: Sequence[np.ndarray], team_sizes: Sequence[int], classes_per_device: int
) -> np.ndarray:
    """Slides a window over each team's own classes, round and round.

    Args:
      blocks: M arrays, the classes of each team.
      team_sizes: `[M]`.
      classes_per_device: J, from 1 to the length of the shortest block.

    Returns:
      `[D, J]` int64: slot s of the j-th device of a team with n classes holds the
      class `block[(j + s) mod n]`.

    Raises:
      InputError: if a block has fewer than `classes_per_device` classes.
    """
    fewest = min(len(block) for block in blocks)
    if not 1 <= classes_per_device <= fewest:
        raise InputError(
            f"--classes_per_device={classes_per_device} was given, but "
            f"--team_formation leaves some team {fewest} classes, and 1 to that many "
            "are allowed; fewer teams have more classes each (--devices_per_team)."
        )
    windows = []
    for block, size in zip(blocks, team_sizes, strict=True):
        slots = np.arange(size)[:, None] + np.arange(classes_per_device)
        windows.append(block[slots % len(block)])
    return np.concatenate(windows).astype(np.int64)
