"""What predict reads from users: samples in an .npz, damaged or of another form."""

import pathlib
import random
from typing import Any

import numpy as np

from fuzzing import mutating

_NAME = "given.npz"
_SHAPES = ((30, 4, 3), (30, 4, 2), (0, 4, 3), (30,), (), (1, 4, 3), (30, 4, 3, 1))
_TYPES = ("uint8", "int64", "float32", "float64", "bool", "U3", "O", "complex64", "M8")
_FORMS = ("uint8", "uint8", "uint8", "float32")
_LABELS = (*[(30, 10)] * 6, (30, 11), (1, 10), (29, 10), (0, 1))


def prepare(folder: pathlib.Path) -> Any:
    """Nothing that a case needs."""
    del folder


def draw(rng: random.Random, world: Any) -> list[Any]:
    """How the arrays are made, then what happens to the file."""
    del world
    usual = rng.random() < 0.8
    shape = _SHAPES[0] if usual else rng.choice(_SHAPES)
    kind = _TYPES[0] if usual else rng.choice(_TYPES)
    names = rng.choice((["x", "y"],) * 8 + (["x"], ["y"], ["z"], [], ["x", "y", "x/y"]))
    made = [names, list(shape), kind, list(rng.choice(_LABELS)), rng.random() < 0.5]
    steps = [mutating.damage(rng, [_NAME], {}) for _ in range(rng.choice((0, 1, 1, 2)))]
    return [
        ["make", *made],
        *steps,
        ["read", rng.choice(("uint8",) * 3 + ("float32",))],
    ]


def perform(steps: list[Any], world: Any, folder: pathlib.Path) -> str | None:
    """Makes the file and reads it, for images of bytes or of numbers."""
    del world
    from experiments import sample_files

    path = folder / _NAME
    dtype = np.dtype(np.uint8)
    for step in steps:
        if step[0] == "make":
            _make(path, *step[1:])
        elif step[0] == "read":
            dtype = np.dtype(step[1])
        else:
            mutating.apply(folder, step)
    form = sample_files.Form((4, 3), dtype, 10)
    found = sample_files.read("--input", str(path), form)
    if found.x.dtype != dtype or found.x.shape[1:] != (4, 3):
        return f"gave {found.x.dtype} {found.x.shape}"
    if found.y is not None and len(found.y) != len(found.x):
        return f"gave {len(found.y)} labels"
    return None


def _make(path, names, shape, kind, labels, packed):
    count, classes = labels
    filled = np.zeros(shape, kind) if kind in ("U3", "O", "M8") else np.ones(shape)
    content = {"x": filled.astype(kind), "y": np.arange(count) % classes}
    arrays = {name: content.get(name, content["x"]) for name in names}
    (np.savez_compressed if packed else np.savez)(path, **arrays)
