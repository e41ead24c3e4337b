"""Folders of checkpoints: damaged, forged and sealed again, oddly named."""

import contextlib
import json
import pathlib
import random
import shutil
from typing import Any

from fuzzing import mutating

_NAMES = ("3", "007", "-1", "99999999999999999999", "1" * 200, "٣", "²", "1.5", "0")


def prepare(folder: pathlib.Path) -> dict[str, Any]:
    """Two whole checkpoints."""
    import jax.numpy as jnp

    from permfl_jax import checkpoints

    state = {"w": jnp.arange(12.0).reshape(4, 3), "n": jnp.arange(4)}
    kept = checkpoints.Checkpoints(folder / "kept")
    for number in (1, 2):
        kept.save(number, state, {"round": number})
    kept.close()
    return {"kept": folder / "kept", "state": state}


def draw(rng: random.Random, world: dict[str, Any]) -> list[Any]:
    """Damage; what is sealed again is believed."""
    files = sorted(path for path in world["kept"].rglob("*") if path.is_file())
    names = [str(path.relative_to(world["kept"])) for path in files]
    texts = {}
    for path, name in zip(files, names, strict=True):
        with contextlib.suppress(ValueError):
            texts[name] = json.loads(path.read_text())
    if rng.random() < 0.5:  # of the newest, and most of all what describes it
        names = [name for name in names if name.startswith("2/")]
        names += [name for name in names if "meta" in name] * 4
    steps = [
        mutating.damage(rng, names, texts) for _ in range(rng.choice((1, 1, 2, 4)))
    ]
    # A digest of gigabytes takes its time, and shall.
    steps = [step for step in steps if step[2] != "sparse"]
    if rng.random() < 0.3:
        name = rng.choice(_NAMES)
        steps.append([name, "folder", rng.choice(("empty", "copy", "file", "link"))])
    if rng.random() < 0.6:
        steps.append(["", "seal", rng.choice(("2", "2", "1", "all"))])
    return steps


def perform(
    steps: list[Any], world: dict[str, Any], folder: pathlib.Path
) -> str | None:
    """Restores and reads, and checks what was believed."""
    import jax

    from permfl_jax import checkpoints, seals

    kept = folder / "kept"
    shutil.copytree(world["kept"], kept)
    for name, kind, argument in steps:
        if kind == "seal":
            for number in ("1", "2") if argument == "all" else (argument,):
                # A forger's tool need not get through.
                with contextlib.suppress(OSError):
                    _is_small(kept / number) and seals.write(kept / number)
        elif kind == "folder":
            _add(kept, kept / name, argument)
        else:
            mutating.apply(kept, [name, kind, argument])
    twin = folder / "twin"
    shutil.copytree(kept, twin, symlinks=True, copy_function=_link)
    with contextlib.suppress(checkpoints.InputError):
        checkpoints.read(twin)
    store = checkpoints.Checkpoints(kept)
    try:
        found = store.restore(world["state"], lambda progress: None)
    finally:
        store.abandon()
    if found is None:
        return None
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), found.state)
    wanted = jax.tree.map(lambda x: (x.shape, str(x.dtype)), world["state"])
    return None if shapes == wanted else f"restored {shapes}"


def _is_small(folder):
    plain = [p for p in folder.rglob("*") if not p.is_dir()]
    return all(p.is_file() and p.stat().st_size < 2**24 and p.exists() for p in plain)


def _link(source, target):
    """Hard links keep pipes, and holes, as they are."""
    pathlib.Path(target).hardlink_to(source)


def _add(kept, path, kind):
    with contextlib.suppress(OSError):
        if kind == "copy":
            shutil.copytree(kept / "1", path)
        elif kind == "empty":
            path.mkdir()
        elif kind == "file":
            path.write_text("x")
        else:
            path.symlink_to(kept)
