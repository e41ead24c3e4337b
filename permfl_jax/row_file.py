"""A file of one JSON object per line, which grows, and may be cut to what it was."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from permfl_jax import plain_files
from permfl_jax.errors import InputError

_MOST_BYTES = 2**30

Keep = Callable[[dict[str, Any]], bool]


class RowFile:
    """One row per evaluation.

    Attributes:
      path: the file, which may not exist yet.
    """

    def __init__(self, path: pathlib.Path):
        """Nothing is read or written."""
        self.path = path

    def clear(self) -> None:
        """Begins anew."""
        self._write("", "w")

    def append(self, row: dict[str, Any]) -> None:
        """Adds one object and flushes it."""
        self._write(_line(row), "a")

    def count(self) -> int:
        """Lines that are there."""
        try:
            return len(plain_files.read_bytes(self.path, _MOST_BYTES).splitlines())
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise InputError(
                f"--workdir={self.path.parent} holds a damaged {self.path.name}; "
                "choose another folder."
            ) from error

    def mark(self, keep: Keep | None = None) -> dict[str, Any]:
        """How far the rows are: bytes and their SHA-256, on disk when this returns.

        Args:
          keep: of a row, whether it counts, as in `cut`; `None` for all.
        """
        try:
            with open(self.path, "rb") as file:
                text = file.read()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        if keep is not None:
            text = "".join(map(_line, _kept(text, keep))).encode()
        return {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}

    def lacks(self, mark: dict[str, Any]) -> bool:
        """Whether the rows up to a mark are not there, or not as they were."""
        try:
            text = plain_files.read_bytes(self.path, _MOST_BYTES)
        except OSError:
            return True
        return hashlib.sha256(text[: mark["bytes"]]).hexdigest() != mark["sha256"]

    def cut(self, mark: dict[str, Any], keep: Keep) -> list[dict[str, Any]]:
        """Removes all rows after a mark, and those before it that are not to be kept.

        Args:
          mark: from `mark`.
          keep: of a row, whether the run would have it.

        Returns:
          The rows that stay.
        """
        try:
            rows = _kept(self.path.read_bytes()[: mark["bytes"]], keep)
            with plain_files.whole(self.path) as file:
                file.write_text("".join(map(_line, rows)), encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        return rows

    def _write(self, text, mode):
        try:
            with open(self.path, mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error):
        return InputError(
            f"--workdir={self.path.parent} cannot be written ({error.strerror})."
        )


def _kept(text, keep):
    lines = text.decode().splitlines()
    return [row for line in lines if keep(row := json.loads(line))]


def _line(row):
    return json.dumps(row) + "\n"
