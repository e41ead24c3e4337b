"""How the leaves of a state are called on disk, and what is noted beside them."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from permfl_jax import plain_files

_FORMAT = 1
_MOST_BYTES = 2**28


def key(number: int) -> str:
    """Of a leaf."""
    return f"{number:04d}"


def numbered(state: Any) -> dict[str, Any]:
    """Leaves by number, for orbax, so that any name may be theirs."""
    return {key(i): x for i, x in enumerate(jax.tree.leaves(state))}


def shapes(state: Any) -> list[list[Any]]:
    """Name, shape and dtype of every leaf, as JSON gives them back."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [
        [
            jax.tree_util.keystr(path, simple=True, separator="/"),
            list(x.shape),
            str(x.dtype),
        ]
        for path, x in leaves
    ]


def note(state: Any, progress: dict[str, Any]) -> dict[str, Any]:
    """What is saved beside the leaves."""
    return {"format": _FORMAT, "leaves": shapes(state), "progress": progress}


def read_note(folder: pathlib.Path) -> dict[str, Any]:
    """What `note` gave.

    Args:
      folder: of the checkpoint.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no JSON, or too large.
    """
    return json.loads(plain_files.read_bytes(folder / "meta" / "metadata", _MOST_BYTES))


def objection(
    folder: pathlib.Path,
    template: Any,
    accept: Callable[[dict[str, Any]], str | None],
) -> str | None:
    """Why a whole checkpoint is not to be gone on from, or `None`.

    Args:
      folder: of the checkpoint.
      template: as the state is to be.
      accept: given `progress`, says why not, or `None`.
    """
    try:
        found = read_note(folder)
        if found["format"] != _FORMAT or found["leaves"] != shapes(template):
            return "it is of another model or version"
        return accept(found["progress"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "what was saved with it cannot be read"
