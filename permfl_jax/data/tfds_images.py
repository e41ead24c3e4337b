"""Picture datasets through tensorflow-datasets (TFDS), kept as one file of arrays.

What TFDS prepared or extracted once, it trusts by name for ever, and MNIST and
Fashion-MNIST share their file names. So it works in a private folder that is thrown
away, and what stays in `--data_dir` is one file of arrays, renamed into place when it
is complete and checked whenever it is read.
"""

import os
import pathlib
import tempfile
import zipfile

import numpy as np
from absl import logging

from permfl_jax import errors
from permfl_jax.data import examples, image_source, tfds_build
from permfl_jax.data.image_source import Arrays, ImageSource


def load(source: ImageSource, options: examples.SourceOptions) -> examples.Examples:
    """The official training split, then the official test split, in original order.

    Raises:
      InputError: the dataset is neither prepared, nor there as raw files, nor to be
        downloaded; or a file is not what it should be; or a folder cannot be written.
    """
    cache = options.data_path() / f"{source.name}.npz"
    arrays = _read_cache(cache, source)
    if arrays is None:
        arrays = _prepare_and_store(cache, source, options)
    x, y = arrays
    return examples.Examples(
        x=x, y=y, num_classes=source.num_classes, scale=2 / 255, offset=-1.0
    )


def _read_cache(path: pathlib.Path, source: ImageSource) -> Arrays | None:
    """The stored arrays, or `None` if there are none or they are damaged."""
    arrays = None
    try:
        # Opened here: `np.load` forgets to close a file that it cannot understand.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = stored["x"], stored["y"]
        problem = image_source.problem(arrays, source)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        problem = str(error)
    if problem is None:
        return arrays
    logging.warning("%s is damaged (%s): preparing it again.", path, problem)
    return None


def _prepare_and_store(
    cache: pathlib.Path, source: ImageSource, options: examples.SourceOptions
) -> Arrays:
    """Builds the arrays in a private folder and renames the finished file to `cache`.

    Two runs that start together both do the work, and neither sees the other's half.
    """
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{source.name}.", dir=cache.parent
        ) as scratch:
            arrays = tfds_build.build(pathlib.Path(scratch), source, options)
            finished = pathlib.Path(scratch) / cache.name
            np.savez(finished, x=arrays[0], y=arrays[1])
            os.replace(finished, cache)
    except OSError as error:
        # Libraries derive errors of their own from OSError; the system's have a number.
        if error.errno is None:
            raise
        raise errors.InputError(
            f"dataset {source.name} could not be prepared in "
            f"--data_dir={cache.parent} ({error.strerror}): give a folder that can be "
            "written and has room."
        ) from error
    return arrays
