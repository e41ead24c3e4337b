"""The folder of a run: config.json, partition.npz, metrics.jsonl, summary.json."""

import errno
import json
import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

from permfl_jax.errors import InputError
from permfl_jax.partitions import ownership

# Where files are does not change what a run computes.
_PLACES = ("workdir", "data_dir", "manual_dir")
_PACKAGES = ("permfl-jax", "jax", "jaxlib", "flax", "optax", "numpy")


class Workdir:
    """A folder that holds one run, and never two.

    Attributes:
      path: the folder.
      finished: the summary of the same run if it is already complete, else `None`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        flags: dict[str, Any],
        rows: str = "metrics.jsonl",
    ):
        """Opens or creates the folder for the run that `flags` describe.

        Args:
          path: the folder.
          flags: every flag of the run.
          rows: name of the file with one object per evaluation.

        Raises:
          InputError: it cannot be written, or holds something else.
        """
        self.path = pathlib.Path(os.path.expanduser(path))
        self.flags = json.loads(json.dumps(flags))
        self._rows = rows
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_other_run()
            self.finished = self._read("summary.json")
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self._unwritable(error) from error

    def write_config(self, extra: dict[str, Any]) -> None:
        """Starts the run: config.json with flags, versions, commit and machine.

        Args:
          extra: more to record.
        """
        config = {
            "flags": self.flags,
            "command": [os.path.basename(sys.executable), *sys.argv],
            "seed": self.flags.get("seed"),
            "versions": _versions(),
            "git_commit": git_commit(),
            "machine": {
                "platform": platform.platform(),
                "cpu_count": os.cpu_count(),
            },
            **extra,
        }
        self._write("config.json", config)
        self._append(self._rows, "", mode="w")

    def write_partition(self, owned: ownership.Ownership) -> None:
        """Writes partition.npz, who has which rows; `read_partition` reads it."""
        temporary = self.path / ".partition.npz.tmp"
        try:
            with open(temporary, "wb") as file:
                ownership.save(file, owned)
            os.replace(temporary, self.path / "partition.npz")
        except OSError as error:
            raise self._unwritable(error) from error

    def unfinished_rows(self) -> int:
        """Evaluations that the same run left when it was stopped."""
        try:
            text = (self.path / self._rows).read_text(encoding="utf-8")
        except FileNotFoundError:
            return 0
        return len(text.splitlines())

    def by_other_code(self) -> str:
        """A remark if another commit made the run in the folder, else nothing."""
        before = (self._read("config.json") or {}).get("git_commit")
        return "" if before == git_commit() else f" (by commit {before})"

    def write_row(self, row: dict[str, Any]) -> None:
        """Appends one object to the rows and flushes it."""
        self._append(self._rows, json.dumps(row) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, which marks the run as finished."""
        self._write("summary.json", summary)

    def _refuse_other_run(self):
        config = self._read("config.json")
        if config is None:
            others = {entry.name for entry in self.path.iterdir()}
            others -= {".config.json.tmp"}  # a run that was stopped as it started
            if others:
                raise InputError(
                    f"--workdir={self.path} is not empty and holds no run "
                    f"({sorted(others)[0]} is in it); choose another folder."
                )
            return
        before = config.get("flags")
        if not isinstance(before, dict):
            raise self._damaged("config.json")
        differ = sorted(
            name
            for name in before.keys() | self.flags.keys()
            if name not in _PLACES and before.get(name) != self.flags.get(name)
        )
        if differ:
            raise InputError(
                f"--workdir={self.path} holds a different run (differing: "
                f"{', '.join(differ)}); choose another folder."
            )

    def _read(self, name):
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"{name} holds no object")
            return content
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self._damaged(name) from error

    def _damaged(self, name):
        return InputError(
            f"--workdir={self.path} holds a damaged {name}; choose another folder."
        )

    def _write(self, name, content):
        temporary = f".{name}.tmp"
        text = json.dumps(content, indent=1, allow_nan=False)
        self._append(temporary, text + "\n", mode="w")
        try:
            os.replace(self.path / temporary, self.path / name)
        except OSError as error:
            raise self._unwritable(error) from error

    def _append(self, name, text, mode="a"):
        try:
            with open(self.path / name, mode, encoding="utf-8") as file:
                file.write(text)
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
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        expected = config["partition"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no config.json of a run.") from error
    if ownership.digest(owned) != expected:
        raise InputError(
            f"{folder} holds a partition.npz that is not the one of its config.json."
        )
    return owned


def git_commit() -> str | None:
    """The commit this package runs from, `+changes` if edited; `None` if installed."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder)]
    try:
        # Installed into a folder of another project, this file is not tracked.
        _output([*command, "ls-files", "--error-unmatch", pathlib.Path(__file__).name])
        commit = _output([*command, "rev-parse", "HEAD"])
        changed = _output([*command, "status", "--porcelain", "-uno"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def _output(command):
    return subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.strip()


def _versions():
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
