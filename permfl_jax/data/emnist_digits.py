"""EMNIST digits, "EMNIST-10": 280,000 grey pictures, 28x28, 10 classes.

The archive of all EMNIST splits is 562 MB. Its pictures are stored transposed, and TFDS
leaves them so; here they stand upright, as MNIST's do.

References:
  Cohen, Afshar, Tapson, van Schaik, "EMNIST: Extending MNIST to handwritten letters",
  IJCNN 2017.
"""

import os
import zipfile
from collections.abc import Mapping

import numpy as np

from permfl_jax import plain_files
from permfl_jax.data import examples, tfds_images
from permfl_jax.data.idx import read_idx_file
from permfl_jax.data.image_source import Arrays, ImageSource
from permfl_jax.errors import InputError


def read_split(files: Mapping[str, os.PathLike], split: str) -> Arrays:
    """Reads one split from the archive, which holds gzipped idx files.

    Raises:
      InputError: the archive is damaged, or does not hold the split's files.
    """
    prefix, path = f"gzip/emnist-digits-{split}", files["gzip.zip"]
    try:
        with (
            plain_files.open_plain(path) as opened,
            zipfile.ZipFile(opened) as archive,
        ):
            with archive.open(f"{prefix}-images-idx3-ubyte.gz") as file:
                x = read_idx_file(file)
            with archive.open(f"{prefix}-labels-idx1-ubyte.gz") as file:
                y = read_idx_file(file)
    # The last two: a member that is encrypted, or packed in a way unknown here.
    except (OSError, zipfile.BadZipFile, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be read as a zip archive ({type(error).__name__}): it is "
            "truncated, damaged or another file."
        ) from error
    if x.ndim != 3:
        raise InputError(f"{path} holds pictures of {x.ndim} dimensions instead of 3.")
    return np.ascontiguousarray(x.swapaxes(1, 2))[..., np.newaxis], y


SOURCE = ImageSource(
    name="emnist_digits",
    tfds_name="emnist",
    image_shape=(28, 28, 1),
    num_classes=10,
    num_train=240_000,
    num_test=40_000,
    train_pixel_sum=None,
    test_pixel_sum=None,
    read_split=read_split,
)


def emnist_digits(options: examples.SourceOptions) -> examples.Examples:
    """The 240,000 training pictures, then the 40,000 test pictures, each in order."""
    return tfds_images.load(SOURCE, options)
