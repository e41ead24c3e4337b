"""A picture dataset and the facts that a copy of it must satisfy."""

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]
# `(files, split) -> x [S, H, W, C] uint8, y [S]`: `files` maps the name of each raw
# file to where it lies; `split` is 'train' or 'test'.
ReadSplit = Callable[[Mapping[str, os.PathLike], str], Arrays]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A picture dataset of TFDS, and the facts that a copy of it must satisfy.

    Attributes:
      name: what TFDS calls it; also the folder of its raw files in `--manual_dir`.
      image_shape: `(H, W, C)`.
      num_classes: how many classes there are.
      num_train: pictures in the official training split.
      num_test: pictures in the official test split.
      train_pixel_sum: the sum over all bytes of the training pictures.
      test_pixel_sum: the sum over all bytes of the test pictures.
      read_split: reads one split from the raw files.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    train_pixel_sum: int
    test_pixel_sum: int
    read_split: ReadSplit


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
    if sums != expected:
        return f"the pixel sums are {sums} instead of {expected}"
    if y.dtype != np.int32 or y.min() < 0 or y.max() >= source.num_classes:
        return f"the labels are not int32 in [0, {source.num_classes})"
    return None
