"""EMNIST digits from small archives laid out as the real one: that is 562 MB."""

import dataclasses
import gzip
import os
import pathlib
import types
import zipfile

import numpy as np
import pytest

from permfl_jax import data, errors
from permfl_jax.data import emnist_digits, image_source, tfds_images

NUM_TRAIN, NUM_TEST = 12, 5


def idx(values):
    """`values` as a gzipped idx file."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + values.tobytes())


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An archive of 12 + 5 upright pictures `x`, stored transposed."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (NUM_TRAIN + NUM_TEST, 28, 28), dtype=np.uint8)
    y = rng.integers(0, 10, NUM_TRAIN + NUM_TEST, dtype=np.uint8)
    folder = tmp_path / "manual" / "emnist_digits"
    folder.mkdir(parents=True)
    parts = {"train": slice(0, NUM_TRAIN), "test": slice(NUM_TRAIN, None)}
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        archive.writestr("gzip/emnist-letters-train-labels-idx1-ubyte.gz", b"no")
        for split, part in parts.items():
            stored = np.stack([picture.T for picture in x[part]])
            prefix = f"gzip/emnist-digits-{split}"
            archive.writestr(f"{prefix}-images-idx3-ubyte.gz", idx(stored))
            archive.writestr(f"{prefix}-labels-idx1-ubyte.gz", idx(y[part]))
    info = checksums.compute_url_info(folder / "gzip.zip")
    stock = types.SimpleNamespace(url_infos={"https://example.invalid/gzip.zip": info})
    asked = []
    monkeypatch.setattr(tfds, "builder_cls", lambda name: asked.append(name) or stock)
    source = dataclasses.replace(
        emnist_digits.SOURCE, num_train=NUM_TRAIN, num_test=NUM_TEST
    )
    monkeypatch.setattr(emnist_digits, "SOURCE", source)
    options = data.SourceOptions(
        data_dir=str(tmp_path / "prepared"), manual_dir=str(folder.parent)
    )
    return types.SimpleNamespace(
        source=source, options=options, folder=folder, x=x, y=y, asked=asked
    )


def test_upright_and_in_order(tiny, offline):
    found = data.load("emnist_digits", tiny.options)
    np.testing.assert_array_equal(found.x[..., 0], tiny.x)
    np.testing.assert_array_equal(found.y, tiny.y)
    assert found.x.dtype == np.uint8
    assert found.y.dtype == np.int32
    assert found.num_classes == 10
    assert tiny.asked == ["emnist"]


def test_only_the_arrays_stay_and_are_read_again(tiny, offline):
    data.load("emnist_digits", tiny.options)
    assert os.listdir(tiny.options.data_dir) == ["emnist_digits.npz"]
    (tiny.folder / "gzip.zip").unlink()
    again = data.load("emnist_digits", tiny.options)
    np.testing.assert_array_equal(again.x[..., 0], tiny.x)


def test_an_archive_that_tfds_does_not_know_is_refused(tiny, offline):
    with (tiny.folder / "gzip.zip").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(errors.InputError, match="is truncated, damaged or another"):
        data.load("emnist_digits", tiny.options)


def test_sums_that_nobody_knows_are_not_checked_and_known_ones_are(tiny):
    """Also one without the other."""
    x = np.concatenate([tiny.x])[..., np.newaxis]
    arrays = x, tiny.y.astype(np.int32)
    sums = [int(x[:NUM_TRAIN].sum()), int(x[NUM_TRAIN:].sum())]

    def problem(train, test):
        source = dataclasses.replace(
            tiny.source, train_pixel_sum=train, test_pixel_sum=test
        )
        return image_source.problem(arrays, source)

    assert problem(None, None) is None
    assert problem(sums[0], None) is None
    assert problem(*sums) is None
    assert "the pixel sums are" in problem(sums[0] + 1, None)
    assert "the pixel sums are" in problem(None, sums[1] + 1)


def test_the_real_source_is_that_of_the_paper():
    """280,000 digits; its pixel sums were never seen here."""
    source = emnist_digits.SOURCE
    assert (source.num_train, source.num_test) == (240_000, 40_000)
    assert source.train_pixel_sum is source.test_pixel_sum is None


def test_no_network_and_no_archive_is_one_sentence(tmp_path, offline):
    """With TFDS's own address and checksum."""
    with pytest.raises(errors.InputError) as caught:
        tfds_images.load(
            emnist_digits.SOURCE, data.SourceOptions(data_dir=str(tmp_path))
        )
    message = str(caught.value)
    assert "emnist_digits is neither prepared" in message
    assert "with gzip.zip in DIR/emnist_digits" in message
    assert list(pathlib.Path(tmp_path).iterdir()) == []
