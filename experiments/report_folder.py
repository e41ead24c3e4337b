"""What the folder of a run tells, read with suspicion: anyone may have written it."""

import json
import math
import os
import pathlib
import stat
from typing import Any, NamedTuple

from permfl_jax import results
from permfl_jax.errors import InputError
from permfl_jax.partitions.ownership import Ownership

from . import per_device

_MOST_BYTES = 2**28  # of one file
_DEEPEST = 10  # objects in objects
_LARGEST = 1e30  # of what is drawn


class Run(NamedTuple):
    """One folder.

    Attributes:
      name: the folder as the user named it.
      config: config.json.
      settings: flag to value as text; hyper-parameters are `hparam NAME`.
      rows: evaluations, by round: `round` an int, all else floats.
      summary: of a finished run; of one without, `None`.
      owned: who has which rows of the dataset, in which team, if recorded.
      devices: classes and scores of every device, if recorded.
      remarks: sentences about what is missing.
    """

    name: str
    config: dict[str, Any]
    settings: dict[str, str]
    rows: list[dict[str, Any]]
    summary: dict[str, Any] | None
    owned: Ownership | None
    devices: per_device.Devices | None
    remarks: list[str]

    @property
    def seed(self) -> str:
        """As it was given."""
        return self.settings.get("seed", "?")


def read(name: str) -> Run:
    """Reads the folder of one run; nothing outside it, and no dataset.

    Args:
      name: the folder.

    Raises:
      InputError: it holds no run of `experiments.train`, or a damaged file.
    """
    folder, remarks = pathlib.Path(os.path.expanduser(name)), []
    text = _text(folder / "config.json")
    if text is None:
        raise InputError(f"{name} holds no run: there is no config.json in it.")
    config = _object(text, folder / "config.json")
    if not isinstance(config.get("flags"), dict):
        raise _damaged(folder / "config.json")
    lines = _text(folder / "metrics.jsonl")
    if lines is None:
        raise InputError(f"{name} holds no run: there is no metrics.jsonl in it.")
    rows = _rows(lines, folder / "metrics.jsonl", remarks)
    summary = _summary(folder / "summary.json", rows, remarks)
    owned = _owned(folder, remarks)
    devices = _devices(folder, config, owned, rows, remarks)
    settings = _settings(config["flags"])
    return Run(name, config, settings, rows, summary, owned, devices, remarks)


def _damaged(path, why=""):
    return InputError(f"{path} is damaged{why and f': {why}'}.")


def _text(path):
    """`None` if there is no such file."""
    try:
        if not _is_there(path):
            return None
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is larger than {_MOST_BYTES} bytes.")
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is no text (UTF-8)") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from error


def _is_there(path):
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if not stat.S_ISREG(mode):  # reading a pipe may never end
        raise InputError(f"{path} is no ordinary file.")
    return True


def _object(text, path):
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is no JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no object")
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [v for i in inner for v in (i.values() if isinstance(i, dict) else i)]
    if level:
        raise _damaged(path, "its objects hold objects without end")
    return content


def _rows(text, path, remarks):
    """Every line but a torn last one."""
    rows, lines = [], text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            rows.append(_row(line))
        except (ValueError, RecursionError, OverflowError) as error:
            if number < len(lines):
                raise _damaged(path, f"line {number} is no evaluation") from error
            remarks.append(
                "The last line of metrics.jsonl is torn and left out: the run was "
                "stopped, or is writing it now."
            )
        if len(rows) > 1 and rows[-2]["round"] >= rows[-1]["round"]:
            raise _damaged(
                path, f"line {number} is of round {rows[-1]['round']}, out of order"
            )
    if not rows:
        remarks.append("There is no evaluation yet.")
    return rows


def _row(line):
    row = json.loads(line)
    if not isinstance(row, dict) or "member" in row:  # a sweep's has many runs
        raise ValueError("not one run's")
    for value in row.values():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("not a number")
    if not isinstance(row.get("round"), int) or not 0 <= row["round"] < 2**53:
        raise ValueError("no round")
    return {k: v if k == "round" else float(v) for k, v in row.items()}


def _summary(path, rows, remarks):
    text = _text(path)
    if text is None:
        remarks.append("The run is unfinished: there is no summary.json.")
        return None
    summary = _object(text, path)
    for part in ("last", "best_by_validation", "floors"):
        if not isinstance(summary.get(part), dict):
            raise _damaged(path, f"it has no {part!r}")
    last = rows[-1]["round"] if rows else None
    if summary["last"].get("round") != last:
        raise _damaged(path, "its last round is not that of metrics.jsonl")
    return summary


def _owned(folder, remarks):
    path = folder / "partition.npz"
    if not _is_there(path):
        remarks.append("There is no partition.npz, so nothing of teams is shown.")
        return None
    owned = results.read_partition(folder)
    devices = len(owned.team)
    if owned.team.ndim != 1 or not devices or owned.team.min() < 0:
        raise _damaged(path, "it names no team")
    if owned.team.max() >= devices or {len(part) for part in owned[:3]} != {devices}:
        raise _damaged(path, "its parts differ in length")
    return owned


def _devices(folder, config, owned, rows, remarks):
    """devices.npz, where it goes with everything else."""
    there = _is_there(folder / per_device.NAME)
    found = per_device.read(folder) if there else None
    if found is None or owned is None:
        remarks.append(
            "There is no devices.npz, so neither classes nor scores of single devices "
            "are shown: the run was begun before they were recorded."
        )
        return None
    held = [sum(map(len, parts)) for parts in zip(*owned[:3], strict=True)]
    if (
        found.partition != config["partition"]["sha256"]
        or found.classes.sum(axis=1).tolist() != held
    ):
        raise _damaged(folder / per_device.NAME, "it is not of this partition.npz")
    if found.round is None:
        remarks.append("Devices are scored one by one only when a run ends.")
    elif not rows or found.round != rows[-1]["round"]:
        remarks.append(
            f"The scores of single devices are those after round {found.round}."
        )
    return found


def _settings(flags):
    """Flags as text, with one entry for each hyper-parameter."""
    settings = {}
    for name, value in flags.items():
        if name == "hparam" and isinstance(value, list):
            for text in value:
                key, _, number = str(text).partition("=")
                settings[f"hparam {key}"] = number
        else:
            settings[str(name)] = _shown(value)
    return settings


def _shown(value):
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        texts = list(map(_shown, value))
        if len(texts) > 3 and len(set(texts)) == 1:
            return f"{len(texts)} × {texts[0]}"
        return ", ".join(texts) or "none"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return str(value)


def number(values: Any, *path: str) -> float | None:
    """A number somewhere in an object, else `None`, also where it is beyond drawing.

    Args:
      values: the object.
      *path: keys, the outermost first.
    """
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    if isinstance(values, bool) or not isinstance(values, int | float):
        return None
    return float(values) if abs(values) < _LARGEST else None
