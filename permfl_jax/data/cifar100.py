"""CIFAR-100: 60,000 colour pictures, 32x32, 100 classes.

Read from one of two archives of the standard binary records:

  * `cifar-100-binary.tar.xz` in `--manual_dir`/cifar100. It is RECONSTRUCTED, not the
    published file: the pictures and labels of each split are those published (from its
    records the three files of the Python version were rebuilt with their published
    MD5), but the order of the records is not known to be the original one.
  * else `cifar-100-binary.tar.gz`, the published file, as TFDS downloads it.

The class is the fine label; the coarse label, one of 20, is not kept.

References:
  Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Mapping

import numpy as np

from permfl_jax import plain_files
from permfl_jax.data import examples, tfds_images
from permfl_jax.data.image_source import Arrays, ImageSource
from permfl_jax.errors import InputError

NUM_PICTURES = {"train": 50_000, "test": 10_000}
_SIDE, _CHANNELS = 32, 3
_RECORD = 2 + _CHANNELS * _SIDE * _SIDE
_MOST_BESIDE = 2**20  # bytes of an archive besides records: names, headers


def read_split(files: Mapping[str, os.PathLike], split: str) -> Arrays:
    """Reads one split from the archive, without unpacking anything to disk.

    Raises:
      InputError: the archive is damaged, or does not hold the split's records.
    """
    (path,) = files.values()
    try:
        content = _read_member(path, split)
    except (
        *(OSError, EOFError, lzma.LZMAError, tarfile.TarError, zlib.error),
        *(ValueError, OverflowError, MemoryError, RecursionError),  # in odd headers
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read as a tar archive ({type(error).__name__}): it is "
            "truncated, damaged or another file."
        ) from error
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    coarse, fine = records[:, 0].astype(int), records[:, 1].astype(int)
    if len(np.unique(coarse * 256 + fine)) != len(np.unique(fine)):
        raise InputError(f"{path} has a class of {split}.bin in two superclasses.")
    pictures = records[:, 2:].reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)), records[:, 1]


def _read_member(path, split):
    """The bytes of the split's file; its size is checked before they are read."""
    name, size = f"cifar-100-binary/{split}.bin", NUM_PICTURES[split] * _RECORD
    with tarfile.open(fileobj=_unpacked(path), mode="r:") as archive:
        for member in archive:
            if member.name == name:
                # A link has no bytes of its own, and is not followed.
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None or member.size != size:
                    raise InputError(
                        f"{path} holds {name} with {member.size} bytes instead of "
                        f"{size}."
                    )
                return stream.read()
    raise InputError(f"{path} does not hold {name}.")


def _unpacked(path):
    """The archive without its compression, in memory, and no more than there can be."""
    most = _RECORD * sum(NUM_PICTURES.values()) + _MOST_BESIDE
    with plain_files.open_plain(path) as file:
        # Zeros may follow a packed file for gigabytes.
        if os.fstat(file.fileno()).st_size > most:
            raise InputError(f"{path} has more than {most} bytes.")
        packers = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}
        open_ = packers.get(file.read(2))
        file.seek(0)
        content = (open_(file) if open_ else file).read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} holds more than {most} bytes when it is unpacked.")
    return io.BytesIO(content)


SOURCE = ImageSource(
    name="cifar100",
    image_shape=(_SIDE, _SIDE, _CHANNELS),
    num_classes=100,
    num_train=NUM_PICTURES["train"],
    num_test=NUM_PICTURES["test"],
    train_pixel_sum=18_729_378_732,
    test_pixel_sum=3_755_249_331,
    read_split=read_split,
    archive="cifar-100-binary.tar.xz",
)


def cifar100(options: examples.SourceOptions) -> examples.Examples:
    """The 50,000 training pictures, then the 10,000 test pictures, each in order."""
    return tfds_images.load(SOURCE, options)
