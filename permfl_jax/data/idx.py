"""The file format of MNIST and its relatives."""

import gzip
import io
import math
import os
import zlib
from collections.abc import Mapping
from typing import IO

import numpy as np

from permfl_jax import plain_files
from permfl_jax.data.image_source import Arrays
from permfl_jax.errors import InputError

_MOST_BYTES = 2**28  # the largest, of EMNIST, have 188 MB


def read_idx(files: Mapping[str, os.PathLike], split: str) -> Arrays:
    """Reads one split of a dataset that is stored as MNIST is: four gzipped idx files.

    An idx file is a header of big-endian numbers, then the bytes. The last header byte
    of the first number is how many sizes follow: 3 for pictures, 1 for labels.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    x = read_idx_file(files[f"{prefix}-images-idx3-ubyte.gz"])
    y = read_idx_file(files[f"{prefix}-labels-idx1-ubyte.gz"])
    return x[..., np.newaxis], y


def read_idx_file(file: str | os.PathLike | IO[bytes]) -> np.ndarray:
    """The array of bytes in one gzipped idx file, given by its path or opened.

    Raises:
      InputError: it cannot be read, is cut, or holds something else.
    """
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else "an idx file"
    try:
        if isinstance(file, str | os.PathLike):
            # Zeros may follow a packed file for gigabytes.
            packed = plain_files.read_bytes(file, _MOST_BYTES)
            content = _unpacked(io.BytesIO(packed))
        else:
            content = _unpacked(file)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{name} cannot be unpacked ({type(error).__name__}): it is truncated, "
            "damaged or another file."
        ) from error
    num_sizes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * num_sizes
    sizes = np.frombuffer(content[4:start][: 4 * (len(content[4:start]) // 4)], ">u4")
    shape = [int(size) for size in sizes]
    fits = content[:3] == b"\0\0\x08" and len(shape) == num_sizes > 0
    if not fits or math.prod(shape) != len(content) - start:
        raise InputError(
            f"{name} is no idx file of bytes, or does not hold as many as it says."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(file):
    """Stops where more comes out than any such file has."""
    with gzip.open(file) as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise EOFError(f"more than {_MOST_BYTES} bytes")
    return content
