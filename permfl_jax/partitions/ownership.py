"""The record of who got which examples: its digest, and its file.

The file is a plain `.npz` without pickled objects, so other programs can read it:
for each part (`train`, `validation`, `test`) `PART_rows`, the rows of all devices one
after another, and `PART_offsets` `[D + 1]`, where each device's rows begin and the
last ones end; and `team` `[D]`. Devices are in the order in which the partition made
them, before they are sorted into teams.
"""

import hashlib
import os
from typing import BinaryIO, NamedTuple

import numpy as np

from permfl_jax import plain_files
from permfl_jax.errors import InputError


class Ownership(NamedTuple):
    """Which rows of a dataset each of D devices has, and its team.

    Attributes:
      train: D arrays of int64, rows of the dataset's `Examples`.
      validation: as `train`.
      test: as `train`.
      team: `[D]` int32, the team of each device.
    """

    train: list[np.ndarray]
    validation: list[np.ndarray]
    test: list[np.ndarray]
    team: np.ndarray


_PARTS = ("train", "validation", "test")
_OF_A_PART = ("rows", "offsets")


def digest(ownership: Ownership) -> str:
    """SHA-256 of everything that was drawn, the same on every machine."""
    result = hashlib.sha256()
    for name in _PARTS:
        part = getattr(ownership, name)
        # The sizes too: they say where one device ends and the next begins.
        for rows in ([len(device) for device in part], *part):
            result.update(np.asarray(rows, "<i8").tobytes())
    result.update(np.asarray(ownership.team, "<i8").tobytes())
    return result.hexdigest()


def save(file: BinaryIO, ownership: Ownership) -> None:
    """Writes the arrays named in the module to a file opened for writing bytes."""
    arrays = {"team": np.asarray(ownership.team, "<i4")}
    for name in _PARTS:
        part = getattr(ownership, name)
        offsets = np.cumsum([0, *(len(rows) for rows in part)])
        arrays[f"{name}_rows"] = np.concatenate(part).astype("<i8")
        arrays[f"{name}_offsets"] = offsets.astype("<i8")
    np.savez_compressed(file, allow_pickle=False, **arrays)


def load(path: str | os.PathLike[str]) -> Ownership:
    """Reads what `save` wrote.

    Raises:
      InputError: the file is not there, or not one that `save` wrote.
    """
    try:
        arrays = plain_files.read_arrays(
            path,
            ["team", *(f"{part}_{name}" for part in _PARTS for name in _OF_A_PART)],
        )
    except FileNotFoundError as error:
        raise InputError(f"There is no partition file {path}.") from error
    except OSError as error:
        raise InputError(
            f"The partition file {path} cannot be read ({error.strerror})."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not a partition file.") from error
    team = arrays["team"]
    parts = [[arrays[f"{part}_{name}"] for name in _OF_A_PART] for part in _PARTS]
    whole = _whole_numbers(team) and all(
        _fit(rows, offsets, team) for rows, offsets in parts
    )
    if not whole:
        raise InputError(f"{path} is not a partition file.")
    return Ownership(
        *(np.split(rows, offsets[1:-1]) for rows, offsets in parts), team=team
    )


def _fit(rows, offsets, team):
    """The offsets cut the rows into those of each device, in order."""
    return (
        _whole_numbers(rows)
        and _whole_numbers(offsets)
        and len(team) > 0
        and len(offsets) == len(team) + 1
        and offsets[0] == 0
        and offsets[-1] == len(rows)
        and bool((np.diff(offsets) >= 0).all())
    )


def _whole_numbers(array):
    return array.ndim == 1 and array.dtype.kind == "i"
