"""Builds picture datasets with tensorflow-datasets (TFDS), without TensorFlow.

TFDS knows the addresses and the checksums, downloads and stores; two facts about it
(4.9.10) shape this file:

  * Its own picture builders import TensorFlow and shuffle. `_builder_class` yields PNG
    bytes, which needs neither, and keeps the original order.
  * One record costs 0.3 ms to write and to read, so a record is a sheet of pictures,
    one below the other: 2 s for MNIST instead of 25.

TFDS is imported when a dataset has to be prepared, never before.
"""

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from permfl_jax import errors
from permfl_jax.data import examples, image_source
from permfl_jax.data.image_source import Arrays, ImageSource
from permfl_jax.data.raw_files import RawFiles

_PICTURES_PER_SHEET = 1000


def build(
    scratch: pathlib.Path, source: ImageSource, options: examples.SourceOptions
) -> Arrays:
    """Downloads or finds the raw files, stores them as TFDS records, reads those."""
    tfds = _import_tfds(source)
    stock = tfds.builder_cls(source.tfds_name or source.name)
    raw = RawFiles(source.name, options, stock.url_infos)
    raw.check_manual()
    with _quiet(tfds):
        builder = _builder_class(tfds, source, raw)(
            data_dir=os.fspath(scratch), file_format="array_record"
        )
        builder.download_and_prepare(
            download_dir=os.fspath(scratch / "downloads"),
            download_config=tfds.download.DownloadConfig(
                manual_dir=raw.manual,
                # Our records are not on TFDS's server: do not ask.
                try_download_gcs=False,
                force_checksums_validation=True,
            ),
        )
        splits = [_read_split(builder, split, source) for split in ("train", "test")]
    return image_source.join(splits, source)


def _import_tfds(source: ImageSource) -> Any:
    """TFDS, after a check of what it needs here but does not declare."""
    try:
        import array_record  # noqa: F401
        import importlib_resources  # noqa: F401
        import PIL  # noqa: F401
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise errors.InputError(
            f"dataset {source.name} needs the packages tensorflow-datasets, "
            "array_record, importlib_resources and pillow, and "
            f"{error.name} is missing: install them."
        ) from error
    return tfds


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Keeps TFDS off stdout and out of the log, and its bars off anything but a tty."""
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _builder_class(tfds: Any, source: ImageSource, raw: RawFiles) -> type:
    """The builder of `source`: sheets of pictures, in original order."""
    _, width, channels = source.image_shape

    class InOrder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Keeps the order of the raw files; needs no TensorFlow."""

        name = f"{source.name}_in_order"
        VERSION = tfds.core.Version("1.0.0")
        url_infos = raw.url_infos

        def _info(self):
            features = {
                "sheet": tfds.features.Image(shape=(None, width, channels)),
                "labels": tfds.features.Tensor(shape=(None,), dtype=np.uint8),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            files = raw.fetch(dl_manager)
            return {
                split: self._generate_examples(files, split)
                for split in ("train", "test")
            }

        def _generate_examples(self, files, split):
            x, y = source.read_split(files, split)
            for start in range(0, len(y), _PICTURES_PER_SHEET):
                part = slice(start, start + _PICTURES_PER_SHEET)
                yield start, {"sheet": _png(x[part]), "labels": y[part]}

    return InOrder


def _png(pictures: np.ndarray) -> io.BytesIO:
    """`pictures` `[n, H, W, C]`, one below the other."""
    from PIL import Image

    sheet = pictures.reshape(-1, *pictures.shape[2:])
    if sheet.shape[-1] == 1:
        sheet = sheet[..., 0]
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG", compress_level=1)
    stream.seek(0)
    return stream


def _read_split(builder: Any, split: str, source: ImageSource) -> Arrays:
    """Reads the sheets of one split and cuts them into pictures."""
    records = builder.as_data_source(split=split)
    # One call for all records: reading them one by one takes twice as long.
    records = records.__getitems__(range(len(records)))
    x = [record["sheet"].reshape(-1, *source.image_shape) for record in records]
    y = [record["labels"] for record in records]
    return np.concatenate(x), np.concatenate(y)
