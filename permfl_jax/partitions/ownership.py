"""The record of who got which examples: its digest, and its file.

The file is a plain `.npz` without pickled objects, so other programs can read it:
for each part (`train`, `validation`, `test`) `PART_rows`, the rows of all devices one
after another, and `PART_offsets` `[D + 1]`, where each device's rows begin and the
last ones end; and `team` `[D]`. Devices are in the order in which the partition made
them, before they are sorted into teams.
"""

import hashlib
import os
import zipfile
from typing import BinaryIO, NamedTuple

import numpy as np

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
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            parts = [
                np.split(arrays[f"{name}_rows"], arrays[f"{name}_offsets"][1:-1])
                for name in _PARTS
            ]
            return Ownership(*parts, team=arrays["team"])
    except FileNotFoundError as error:
        raise InputError(f"There is no partition file {path}.") from error
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a partition file.") from error
