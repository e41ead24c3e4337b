"""Damage to good files: of bytes, of JSON, of what lies at a path.

A step is `[file, kind, argument]`; all are plain JSON, so that a case can be kept.
"""

import json
import os
import pathlib
import random
from typing import Any

# What stands where something else was expected.
ODD = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**40, 1e308, -1e308),
    *(float("nan"), float("inf"), 0.5, "", "x", "0", "NaN", "../../etc/passwd"),
    *("\0", "\n\n", "é" * 50, "x" * 5000, "𝔘\u202e", [], {}, [[]], {"": {}}),
    *([1, "a", None], {"a": 1}, [[1, 2], [3]], [2**62] * 3, "{seed}"),
)
_LARGE = 2**26  # bytes; what is larger has been damaged
_DEEP = (50, 900, 5000, 200_000)


def damage(rng: random.Random, names: list[str], texts: dict[str, Any]) -> list[Any]:
    """One step on one of the files.

    Args:
      rng: of the case.
      names: of the files, by their paths in the folder.
      texts: content of those that are JSON.
    """
    name = rng.choice(names)
    if name in texts and rng.random() < 0.6:
        path = some_path(rng, texts[name])
        kind = rng.choice(("set", "set", "set", "drop", "more"))
        return [name, kind, [path, rng.choice(ODD)]]
    kind = rng.choices(
        ("flip", "cut", "bytes", "insert", "deep", "replace", "become"),
        (5, 3, 3, 3, 1, 2, 2),
    )[0]
    where = rng.random()
    argument: Any = where
    if kind == "flip":
        argument = [where, rng.randrange(8)]
    elif kind in ("bytes", "insert"):
        argument = [where, rng.randbytes(rng.choice((1, 2, 4, 8, 40))).hex()]
    elif kind == "deep":
        argument = [rng.choice(("[", '{"a":', "(")), rng.choice(_DEEP)]
    elif kind == "replace":
        argument = rng.choice(
            ("", "\n", "null", "{}", "[]", "NaN", "\ufeff{}", "\0" * 9)
        )
    elif kind == "become":
        argument = rng.choice(
            (
                "gone",
                "folder",
                "fifo",
                "/dev/zero",
                "/etc/passwd",
                "self",
                "nowhere",
                "sparse",
                "forbidden",
            )
        )
    return [name, kind, argument]


def some_path(rng: random.Random, content: Any) -> list[Any]:
    """Keys and places down to some value, not too often a leaf of a long list."""
    path: list[Any] = []
    while isinstance(content, dict | list) and content and rng.random() < 0.85:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        path.append(rng.choice(keys))
        content = content[path[-1]]
    return path


def apply(folder: pathlib.Path, step: list[Any]) -> None:
    """Carries out one step; does nothing where an earlier one has left no such file."""
    name, kind, argument = step
    path = folder / name
    if not path.is_file() or path.is_symlink() or path.stat().st_size > _LARGE:
        return
    if kind in ("set", "drop", "more"):
        _change_json(path, kind, *argument)
    elif kind == "become":
        _become(path, argument)
    elif kind == "deep":
        path.write_text(argument[0] * argument[1])
    elif kind == "replace":
        path.write_text(argument, encoding="utf-8")
    else:
        _change_bytes(path, kind, argument)


def _change_bytes(path, kind, argument):
    content = bytearray(path.read_bytes())
    if kind == "cut":
        del content[int(argument * len(content)) :]
    else:
        at = int(argument[0] * len(content))
        if kind == "flip" and content:
            content[at] ^= 1 << argument[1]
        elif kind != "flip":
            new = bytes.fromhex(argument[1])
            content[at : at + (len(new) if kind == "bytes" else 0)] = new
    path.write_bytes(content)


def _change_json(path, kind, keys, value):
    try:
        content = json.loads(path.read_bytes())  # what an earlier step left
        holder = {"": content}
        whole, at = holder, ""
        for key in keys:
            holder, at = holder[at], key
        if kind == "set":
            holder[at] = value
        elif kind == "drop":
            del holder[at]
        else:
            holder[str(value)] = value
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        return  # not there after another step
    path.write_text(json.dumps(whole.get("")), encoding="utf-8")


def _become(path, what):
    if what == "forbidden":
        path.chmod(0)
        return
    if what == "sparse":
        with open(path, "r+b") as file:
            file.truncate(6 * 2**30)
        return
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what != "gone":
        path.symlink_to({"self": path.name, "nowhere": "not/there"}.get(what, what))
