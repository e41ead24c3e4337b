"""A picture dataset and the facts that a copy of it must satisfy."""

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np

from permfl_jax.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray]
# `(files, split) -> x [S, H, W, C] uint8, y [S]`: `files` maps the name of each raw
# file to where it lies; `split` is 'train' or 'test'.
ReadSplit = Callable[[Mapping[str, os.PathLike], str], Arrays]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A picture dataset of TFDS, and the facts that a copy of it must satisfy.

    A pixel sum is `None` where nobody of this project has seen the original: it is
    then not checked, rather than invented.

    Attributes:
      name: what users call it; also the folder of its raw files in `--manual_dir`.
      image_shape: `(H, W, C)`.
      num_classes: how many classes there are.
      num_train: pictures in the official training split.
      num_test: pictures in the official test split.
      train_pixel_sum: the sum over all bytes of the training pictures, or `None`.
      test_pixel_sum: the sum over all bytes of the test pictures, or `None`.
      read_split: reads one split from the raw files.
      tfds_name: what TFDS calls it, where that is not `name`.
      archive: a raw file that TFDS does not know; where the user has it, `read_split`
        reads it instead of TFDS's files.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    train_pixel_sum: int | None
    test_pixel_sum: int | None
    read_split: ReadSplit
    tfds_name: str | None = None
    archive: str | None = None


def join(splits: list[Arrays], source: ImageSource) -> Arrays:
    """The splits one after the other, `y` as int32.

    Raises:
      InputError: together they are not this dataset.
    """
    x, y = (np.concatenate(parts) for parts in zip(*splits, strict=True))
    arrays = x, y.astype(np.int32)
    if found := problem(arrays, source):
        raise InputError(f"dataset {source.name} is not itself: {found}.")
    return arrays


def problem(arrays: Arrays, source: ImageSource) -> str | None:
    """Why `arrays` are not this dataset, or `None` if they are."""
    x, y = arrays
    shape = (source.num_train + source.num_test, *source.image_shape)
    if x.shape != shape or x.dtype != np.uint8 or y.shape != shape[:1]:
        return f"{x.dtype} pictures of shape {x.shape} instead of uint8 {shape}"
    sums = (
        int(x[: source.num_train].sum(dtype=np.int64)),
        int(x[source.num_train :].sum(dtype=np.int64)),
    )
    expected = (source.train_pixel_sum, source.test_pixel_sum)
    pairs = zip(sums, expected, strict=True)
    if any(known not in (None, found) for found, known in pairs):
        return f"the pixel sums are {sums} instead of {expected}"
    if y.dtype != np.int32 or y.min() < 0 or y.max() >= source.num_classes:
        return f"the labels are not int32 in [0, {source.num_classes})"
    return None
