"""The folder of a run: config.json, partition.npz, metrics.jsonl, summary.json."""

import contextlib
import errno
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from typing import Any

from permfl_jax import plain_files, provenance
from permfl_jax.errors import InputError
from permfl_jax.partitions import ownership
from permfl_jax.row_file import RowFile

# Where files are does not change what a run computes.
_PLACES = ("workdir", "data_dir", "manual_dir")
_LOCK = ".lock"
_MOST_BYTES = 2**30  # of a file of text


class Workdir:
    """A folder that holds one run, and never two.

    Attributes:
      path: the folder.
      finished: the summary of the same run if it is already complete, else `None`.
      begun: the config.json of the same run if there is one, else `None`.
      rows: the file with one object per evaluation.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        flags: dict[str, Any],
        rows: str = "metrics.jsonl",
        grows: str | None = None,
    ):
        """Opens or creates the folder for the run that `flags` describe.

        Args:
          path: the folder.
          flags: every flag of the run.
          rows: name of the file with one object per evaluation.
          grows: a flag, more of which is the same run, gone on with.

        Raises:
          InputError: it cannot be written, or holds something else.
        """
        self._grows = grows
        self.path = pathlib.Path(os.path.expanduser(path))
        self.flags = json.loads(json.dumps(flags))
        self.rows = RowFile(self.path / rows)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.look()
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self._unwritable(error) from error

    def look(self) -> None:
        """What is there now; once more within `locked`, for what happened meanwhile.

        Raises:
          InputError: something else.
        """
        self.begun = self._same_run()
        self.finished = None if self._has_grown() else self._read("summary.json")

    def keep_finished(self) -> None:
        """Before a run begins anew.

        Raises:
          InputError: a shorter one that is finished would be overwritten.
        """
        if (self.path / "summary.json").exists():
            raise InputError(
                f"--workdir={self.path} holds a finished run of fewer rounds and no "
                "checkpoint to go on from; choose another folder."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within it, no other process works in the folder.

        Raises:
          InputError: one does already.
        """
        try:
            import fcntl  # not on Windows, where two runs are not kept apart
        except ImportError:
            yield
            return
        try:
            file = open(self.path / _LOCK, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from error
        # The kernel lets go when the process ends, however it ends.
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"--workdir={self.path} is in use by another process; wait for it, "
                    "or choose another folder."
                ) from error
            except OSError:
                pass  # a file system without locks
            yield

    def write_config(self, extra: dict[str, Any]) -> None:
        """Starts the run: config.json with flags, versions, commit and machine.

        Args:
          extra: more to record.
        """
        config = {
            "flags": self.flags,
            "command": _command(),
            "seed": self.flags.get("seed"),
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
            "machine": {
                "platform": platform.platform(),
                "cpu_count": os.cpu_count(),
            },
            **extra,
        }
        (self.path / "summary.json").unlink(missing_ok=True)
        self._write("config.json", config)
        self.rows.clear()

    def grow(self) -> None:
        """Goes on with a run that was asked for less."""
        if self.begun is None or not self._has_grown():
            return
        (self.path / "summary.json").unlink(missing_ok=True)
        self.begun = self.begun | {"flags": self.flags, "command": _command()}
        self._write("config.json", self.begun)

    def write_partition(self, owned: ownership.Ownership) -> None:
        """Writes partition.npz, who has which rows; `read_partition` reads it."""
        try:
            with (
                plain_files.whole(self.path / "partition.npz") as path,
                open(path, "wb") as file,
            ):
                ownership.save(file, owned)
        except OSError as error:
            raise self._unwritable(error) from error

    def unfinished_rows(self) -> int:
        """Evaluations that the same run left when it was stopped."""
        return self.rows.count()

    def by_other_code(self) -> str:
        """A remark if another commit made the run in the folder, else nothing."""
        before = (self._read("config.json") or {}).get("git_commit")
        return "" if before == provenance.git_commit() else f" (by commit {before})"

    def write_row(self, row: dict[str, Any]) -> None:
        """Appends one object to the rows and flushes it."""
        self.rows.append(row)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, which marks the run as finished."""
        self._write("summary.json", summary)

    def _same_run(self):
        """config.json of the run that the flags describe, `None` in an empty folder."""
        config = self._read("config.json")
        if config is None:
            others = {entry.name for entry in self.path.iterdir()}
            # Of a run that was stopped as it started.
            others -= {plain_files.unfinished("config.json"), _LOCK}
            if others:
                raise InputError(
                    f"--workdir={self.path} is not empty and holds no run "
                    f"({sorted(others)[0]} is in it); choose another folder."
                )
            return None
        before = config.get("flags")
        if not isinstance(before, dict):
            raise self._damaged("config.json")
        differ = sorted(
            name if name.isidentifier() else repr(name)
            for name in before.keys() | self.flags.keys()
            if name not in _PLACES and before.get(name) != self.flags.get(name)
        )
        if differ == [self._grows] and self._is_more(before):
            differ = []
        if differ:
            raise InputError(
                f"--workdir={self.path} holds a different run (differing: "
                f"{', '.join(differ)[:500]}); choose another folder."
            )
        return config

    def _is_more(self, before):
        both = self.flags.get(self._grows), before.get(self._grows)
        return all(isinstance(number, int) for number in both) and both[0] > both[1]

    def _has_grown(self):
        return self.begun is not None and self._is_more(self.begun["flags"])

    def _read(self, name):
        try:
            content = json.loads(plain_files.read_bytes(self.path / name, _MOST_BYTES))
            if not isinstance(content, dict):
                raise ValueError(f"{name} holds no object")
            return content
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(name) from error

    def _damaged(self, name):
        return InputError(
            f"--workdir={self.path} holds a damaged {name}; choose another folder."
        )

    def _write(self, name, content):
        self._replace(name, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def _replace(self, name, text):
        try:
            with plain_files.whole(self.path / name) as file:
                file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error):
        return InputError(
            f"--workdir={self.path} cannot be written ({error.strerror})."
        )


def read_partition(path: str | os.PathLike[str]) -> ownership.Ownership:
    """Who had which rows in the run of a folder, checked against its config.json.

    Args:
      path: the folder.

    Returns:
      The rows of every device's parts, and its team.

    Raises:
      InputError: there is no run with a partition, or its SHA-256 is not the one in
        config.json.
    """
    folder = pathlib.Path(os.path.expanduser(path))
    owned = ownership.load(folder / "partition.npz")
    try:
        config = json.loads(plain_files.read_bytes(folder / "config.json", _MOST_BYTES))
        expected = config["partition"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder} holds no config.json of a run.") from error
    if ownership.digest(owned) != expected:
        raise InputError(
            f"{folder} holds a partition.npz that is not the one of its config.json."
        )
    return owned


def _command():
    return [os.path.basename(sys.executable), *sys.argv]
