"""LEAF's format: JSON files that hold the samples of each user.

  {"users": ["u", ...], "num_samples": [n, ...],
   "user_data": {"u": {"x": [[784 numbers], ...], "y": [n numbers]}, ...}}

The files come from elsewhere, so nothing in them is taken on trust: what is wrong is
one sentence with the name of the file.
"""

import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from permfl_jax import plain_files
from permfl_jax.errors import InputError

_MOST_BYTES = 2**31  # LEAF's own files have some 10^8


class Writer(NamedTuple):
    """The samples of one user.

    Attributes:
      x: `[n, num_features]`; uint8 if every value is k/255 for a whole k, which is then
        stored, else float32.
      y: `[n]` int32.
    """

    x: np.ndarray
    y: np.ndarray


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """LEAF's files in `folder`, `all_data_2.json` before `all_data_10.json`."""

    def order(path):
        numbers = [int(number) for number in re.findall(r"\d{1,18}", path.name)]
        return numbers, path.name

    return sorted(folder.glob("all_data_*.json"), key=order)


def read(path: pathlib.Path, num_features: int, num_classes: int) -> dict[str, Writer]:
    """`{user: samples}` of one file, in the file's order.

    Raises:
      InputError: the file cannot be read, or is not in LEAF's format, or a value or
        label is out of range.
    """
    try:
        content = json.loads(plain_files.read_bytes(path, _MOST_BYTES))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON, or is truncated: {error}.") from error
    users, data = _users(content, path)
    writers = {}
    for user, size in zip(users, content["num_samples"], strict=True):
        where = f"{path}, user {user!r:.60},"
        writers[user] = _writer(data[user], size, where, num_features, num_classes)
    return writers


def _users(content: Any, path: pathlib.Path) -> tuple[list[str], dict[str, Any]]:
    """The users and their data, which fit each other."""
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object as LEAF writes it.")
    kinds = {"users": list, "num_samples": list, "user_data": dict}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            word = "an object" if kind is dict else "a list"
            raise InputError(f"{path} must have {name!r}, {word}.")
    users, data = content["users"], content["user_data"]
    if not all(isinstance(user, str) for user in users):
        raise InputError(f"{path} must have strings for 'users'.")
    if len(set(users)) != len(users):
        raise InputError(f"{path} names a user twice.")
    if set(users) != set(data):
        raise InputError(f"{path} names other users in 'users' than in 'user_data'.")
    if len(content["num_samples"]) != len(users):
        raise InputError(
            f"{path} has {len(content['num_samples'])} entries in 'num_samples' for "
            f"{len(users)} users."
        )
    return users, data


def _writer(
    samples: Any, size: Any, where: str, num_features: int, num_classes: int
) -> Writer:
    """Checks the samples of one user, of whom `num_samples` says `size`."""
    if not isinstance(samples, dict):
        raise InputError(f"{where} must have an object with 'x' and 'y'.")
    for name in ("x", "y"):
        if not isinstance(samples.get(name), list):
            raise InputError(f"{where} must have {name!r}, a list.")
    if type(size) is not int or not size == len(samples["x"]) == len(samples["y"]):
        raise InputError(
            f"{where} must have as many samples as 'num_samples' says, {size!r:.30}, "
            f"but 'x' has {len(samples['x'])} and 'y' has {len(samples['y'])}."
        )
    x = _numbers(samples["x"], (size, num_features), f"{where} 'x'")
    y = _numbers(samples["y"], (size,), f"{where} 'y'")
    if not (np.isfinite(x) & (x >= 0) & (x <= 1)).all():
        raise InputError(f"{where} 'x' has a number outside [0, 1] or not finite.")
    if not ((y == np.rint(y)) & (y >= 0) & (y < num_classes)).all():
        raise InputError(
            f"{where} 'y' has a label that is no whole number in [0, {num_classes})."
        )
    return Writer(_as_bytes(x), y.astype(np.int32))


def _numbers(values: list, shape: tuple[int, ...], where: str) -> np.ndarray:
    """`values` as float64 of `shape`; NumPy alone would read "1.0" as a number."""
    rows = values if len(shape) == 2 else [values]
    plain = all(
        isinstance(row, list)
        and len(row) == shape[-1]
        and set(map(type, row)) <= {int, float}
        for row in rows
    )
    try:
        if plain:
            return np.array(values, np.float64).reshape(shape)
    except OverflowError:  # a whole number beyond 1.8e308
        pass
    size = " x ".join(map(str, shape))
    raise InputError(f"{where} must hold {size} plain numbers.")


def _as_bytes(x):
    """Exact as bytes where LEAF wrote 255 levels of grey, else float32."""
    levels = np.rint(255 * x)
    if np.array_equal(levels / 255, x):
        return levels.astype(np.uint8)
    return x.astype(np.float32)
