"""FEMNIST: handwritten digits and letters by who wrote them, 28x28, 62 classes.

Read from the files `all_data_*.json` that LEAF makes, in `--manual_dir`/femnist. Owners
are writers, numbered in the order of the files. As LEAF has it, paper is 1 and ink 0
(MNIST: the other way round), and the model sees [-1, 1] as with other pictures. LEAF
writes 255 levels of grey, which are stored as bytes; if any value is not of the form
k/255, all are stored as float32.

References:
  Caldas et al., "LEAF: A Benchmark for Federated Settings", arXiv:1812.01097.
"""

import pathlib

import numpy as np

from permfl_jax.data import array_cache, examples, leaf
from permfl_jax.errors import InputError

NUM_CLASSES = 62
_SHAPE = (28, 28, 1)


def femnist(options: examples.SourceOptions) -> examples.Examples:
    """All writers, each with his samples in the order of the file.

    The arrays are kept in `--data_dir`, and made again if the raw files have changed.

    Raises:
      InputError: there are neither raw files nor prepared arrays; or a file is not in
        LEAF's format; or a folder cannot be written.
    """
    folder = options.manual_path("femnist")
    paths = [] if folder is None else leaf.find(folder)
    made_from = [_identity(path) for path in paths]

    def problem(arrays):
        if paths and arrays["made_from"].tolist() != made_from:
            return "the raw files are others now"
        return _problem(arrays)

    def prepare(scratch):
        del scratch
        if not paths:
            raise InputError(
                "dataset femnist is neither prepared in "
                f"--data_dir={options.data_path()}, nor as raw files in "
                f"--manual_dir={options.manual_dir}: give --manual_dir=DIR with "
                "LEAF's all_data_*.json in DIR/femnist."
            )
        return {**_read(paths), "made_from": np.array(made_from)}

    cache = options.data_path() / "femnist.npz"
    names = ("x", "y", "device", "made_from")
    arrays = array_cache.load(cache, names, problem, prepare)
    whole = arrays["x"].dtype == np.uint8
    return examples.Examples(
        x=arrays["x"],
        y=arrays["y"],
        num_classes=NUM_CLASSES,
        scale=2 / 255 if whole else 2.0,
        offset=-1.0,
        device=arrays["device"],
    )


def _identity(path: pathlib.Path) -> str:
    """Changes when the file does; reading gigabytes to be surer would take minutes."""
    try:
        facts = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return f"{path.name} {facts.st_size} {facts.st_mtime_ns}"


def _read(paths: list[pathlib.Path]) -> array_cache.Arrays:
    """`x`, `y` and `device` of all writers in all files."""
    writers: dict[str, leaf.Writer] = {}
    for path in paths:
        found = leaf.read(path, int(np.prod(_SHAPE)), NUM_CLASSES)
        if twice := sorted(writers.keys() & found.keys()):
            raise InputError(
                f"{path} has user {twice[0]!r:.60}, whom another of the files has too."
            )
        writers |= found
    if not any(len(writer.y) for writer in writers.values()):
        raise InputError(f"{paths[0].parent} has files of LEAF's without a sample.")
    sizes = [len(writer.y) for writer in writers.values()]
    return {
        "x": _stack([writer.x for writer in writers.values()]).reshape(-1, *_SHAPE),
        "y": np.concatenate([writer.y for writer in writers.values()]),
        "device": np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
    }


def _stack(parts: list[np.ndarray]) -> np.ndarray:
    """Bytes if all are; else the bytes, too, become numbers from 0 to 1."""
    if all(part.dtype == np.uint8 for part in parts):
        return np.concatenate(parts)
    return np.concatenate(
        [
            part if part.dtype == np.float32 else (part / 255).astype(np.float32)
            for part in parts
        ]
    )


def _problem(arrays):
    """Why stored arrays are not this dataset, or `None` if they are."""
    x, y, device = arrays["x"], arrays["y"], arrays["device"]
    if y.ndim != 1:
        return f"labels of shape {y.shape}"
    if x.dtype not in (np.uint8, np.float32) or x.shape != (len(y), *_SHAPE):
        return f"{x.dtype} pictures of shape {x.shape}"
    if y.dtype != np.int32 or not len(y) or y.min() < 0 or y.max() >= NUM_CLASSES:
        return f"the labels are not int32 in [0, {NUM_CLASSES})"
    if device.dtype != np.int32 or device.shape != y.shape or device.min() < 0:
        return "the owners are not int32"
    return None
