"""Finished cells of a comparison: a file for each column and method."""

import json
import pathlib
from typing import Any

from permfl_jax import plain_files
from permfl_jax.errors import InputError

from . import columns, grids
from .columns import Column

# What does not change a cell: places, and how rounds are spread over chips and calls.
INDIFFERENT = (
    *("algorithm", "hparam", "workdir", "data_dir", "manual_dir"),
    *("chips", "device_chunk", "rounds_per_call", "local_floor", "distributed"),
)


def identity(
    column: Column,
    method: str,
    protocol: str,
    seeds: tuple[int, ...],
    tuning_seeds: tuple[int, ...],
) -> dict[str, Any]:
    """Everything that a cell's numbers depend on, but the code, as JSON would give it.

    Args:
      column: its flags.
      method: name of the method.
      protocol: `fair` or `paper`.
      seeds: of the reported runs.
      tuning_seeds: of the tuning runs, which the `paper` protocol has not.

    Raises:
      InputError: the method has no grid.
    """
    if protocol not in columns.PROTOCOLS:
        raise InputError(
            f"--protocol={protocol} is unknown; choose from "
            f"{', '.join(columns.PROTOCOLS)}."
        )
    flags = {k: v for k, v in vars(column.config).items() if k not in INDIFFERENT}
    fixed = column.fixed(method)
    found = {**flags, "hparam": fixed, "protocol": protocol, "seeds": seeds}
    if protocol == "fair":
        found |= {
            "grid": grids.grid(method, column.grid_lr, fixed),
            "tuning_rounds": column.tuning_rounds,
            "tuning_seeds": tuning_seeds,
        }
    return json.loads(json.dumps(found))


class Store:
    """The folder `cells` of a comparison.

    Attributes:
      path: the folder.
    """

    def __init__(self, workdir: pathlib.Path):
        """Looks nowhere yet.

        Args:
          workdir: of the comparison.
        """
        self.path = workdir / "cells"

    def read(self, column: str, method: str, wanted: dict[str, Any]) -> Any:
        """The finished cell, or `None` if there is none.

        Args:
          column: its name.
          method: its name.
          wanted: its identity.

        Raises:
          InputError: the file is damaged, or of another comparison.
        """
        path = self._path(column, method)
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
            before = cell["identity"]
            if not isinstance(before, dict):
                raise TypeError(f"identity is {before}")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(
                f"{path} is damaged; delete it to compute that cell again."
            ) from error
        differ = sorted(
            name
            for name in before.keys() | wanted.keys()
            if before.get(name) != wanted.get(name)
        )
        if differ:
            raise InputError(
                f"{path} was made by other settings (differing: {', '.join(differ)}); "
                "delete it, or choose another --workdir."
            )
        return cell

    def write(self, column: str, method: str, cell: dict[str, Any]) -> None:
        """Writes a finished cell: whole, or not at all.

        Args:
          column: its name.
          method: its name.
          cell: with its `identity`.

        Raises:
          InputError: the folder cannot be written.
        """
        path = self._path(column, method)
        try:
            text = json.dumps(cell, indent=1, allow_nan=False) + "\n"
            with plain_files.whole(path) as file:
                file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}).") from error

    def _path(self, column, method):
        return self.path / column / f"{method}.json"
