"""The file format of MNIST and its relatives."""

import gzip
import os
from collections.abc import Mapping
from typing import IO

import numpy as np

from permfl_jax.data.image_source import Arrays


def read_idx(files: Mapping[str, os.PathLike], split: str) -> Arrays:
    """Reads one split of a dataset that is stored as MNIST is: four gzipped idx files.

    An idx file is a header of big-endian numbers, then the bytes. The last header byte
    of the first number is how many sizes follow: 3 for pictures, 1 for labels.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    x = read_idx_file(files[f"{prefix}-images-idx3-ubyte.gz"])
    y = read_idx_file(files[f"{prefix}-labels-idx1-ubyte.gz"])
    return x[..., np.newaxis], y


def read_idx_file(file: os.PathLike | IO[bytes]) -> np.ndarray:
    """The array in one gzipped idx file, given by its path or opened."""
    with gzip.open(file) as stream:
        content = stream.read()
    num_sizes = content[3]
    sizes = np.frombuffer(content, ">u4", count=num_sizes, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * num_sizes)
    return values.reshape(sizes.astype(int))
