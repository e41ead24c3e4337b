"""Arrays that took long to prepare, kept as one file in `--data_dir`.

The file is renamed into place when it is complete, and checked whenever it is read:
a run that was stopped half-way leaves nothing that a later run could take for the
data.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from permfl_jax import errors, plain_files

Arrays = dict[str, np.ndarray]


def load(
    cache: pathlib.Path,
    names: Sequence[str],
    problem: Callable[[Arrays], str | None],
    prepare: Callable[[pathlib.Path], Arrays],
) -> Arrays:
    """The arrays called `names` from the file `cache`; prepares them if need be.

    Args:
      cache: where the arrays are kept; called after the dataset.
      names: of the arrays.
      problem: why arrays that were read must be prepared again, or `None`.
      prepare: makes the arrays; is given a private folder, which is thrown away.

    Raises:
      InputError: the folder of `cache` cannot be written; or what `prepare` raises.
    """
    arrays = _read(cache, names, problem)
    return _prepare_and_store(cache, prepare) if arrays is None else arrays


def _read(path, names, problem):
    """The stored arrays, or `None` if there are none or they are of no use."""
    arrays = None
    try:
        arrays = plain_files.read_arrays(path, names)
        reason = problem(arrays)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = str(error)
    if reason is None:
        return arrays
    logging.warning(
        "%s is damaged or out of date (%s): preparing it again.", path, reason
    )
    return None


def _prepare_and_store(cache, prepare):
    """Prepares in a private folder and renames the finished file to `cache`.

    Two runs that start together both do the work, and neither sees the other's half.
    """
    name = cache.stem
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{name}.", dir=cache.parent
        ) as scratch:
            arrays = prepare(pathlib.Path(scratch))
            finished = pathlib.Path(scratch) / cache.name
            np.savez(finished, **arrays)
            os.replace(finished, cache)
    except OSError as error:
        # Libraries derive errors of their own from OSError; the system's have a number.
        if error.errno is None:
            raise
        raise errors.InputError(
            f"dataset {name} could not be prepared in "
            f"--data_dir={cache.parent} ({error.strerror}): give a folder that can be "
            "written and has room."
        ) from error
    return arrays
