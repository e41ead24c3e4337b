"""Preparing, storing and refusing pictures, on files small enough to make here."""

import dataclasses
import os
import pathlib
import sys

import numpy as np
import pytest
from absl import logging

from permfl_jax import data, errors
from permfl_jax.data import tfds_build, tfds_images
from permfl_jax.data.idx import read_idx


def prepared(tiny):
    return tfds_images.load(tiny.source, tiny.options)


def cache_file(tiny):
    return pathlib.Path(tiny.options.data_dir) / "mnist.npz"


def assert_is(tiny, found):
    np.testing.assert_array_equal(found.x, tiny.x)
    np.testing.assert_array_equal(found.y, tiny.y)
    assert found.x.dtype == np.uint8
    assert found.y.dtype == np.int32


def assert_one_sentence(message):
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message


@pytest.fixture
def warned(monkeypatch):
    """The warnings logged during the test."""
    lines = []
    monkeypatch.setattr(
        logging, "warning", lambda message, *args: lines.append(message % args)
    )
    return lines


def test_prepares_in_original_order(tiny, monkeypatch, offline):
    """Across sheets, the last of which is not full."""
    monkeypatch.setattr(tfds_build, "_PICTURES_PER_SHEET", 8)
    assert_is(tiny, prepared(tiny))


def test_colour_pictures_survive_the_sheets(tiny, monkeypatch, offline):
    monkeypatch.setattr(tfds_build, "_PICTURES_PER_SHEET", 8)
    x = np.random.default_rng(1).integers(0, 256, (25, 4, 5, 3), dtype=np.uint8)
    part = {"train": slice(0, 20), "test": slice(20, 25)}
    source = dataclasses.replace(
        tiny.source,
        image_shape=(4, 5, 3),
        train_pixel_sum=int(x[:20].sum()),
        test_pixel_sum=int(x[20:].sum()),
        read_split=lambda files, split: (x[part[split]], tiny.y[part[split]]),
    )
    found = tfds_images.load(source, tiny.options)
    np.testing.assert_array_equal(found.x, x)


def test_second_load_reads_the_stored_arrays_only(tiny, monkeypatch, offline):
    prepared(tiny)
    monkeypatch.setattr(tfds_build, "build", None)
    assert_is(tiny, prepared(tiny))


def test_only_the_finished_file_stays(tiny, offline):
    prepared(tiny)
    assert os.listdir(tiny.options.data_dir) == ["mnist.npz"]


def test_nothing_is_printed(tiny, offline, capfd):
    prepared(tiny)
    assert capfd.readouterr() == ("", "")


def test_tfds_warnings_are_silenced_for_the_time_being(tiny, offline):
    seen = []

    def read_split(files, split):
        seen.append(logging.get_verbosity())
        return read_idx(files, split)

    before = logging.get_verbosity()
    source = dataclasses.replace(tiny.source, read_split=read_split)
    tfds_images.load(source, tiny.options)
    assert set(seen) == {logging.ERROR}
    assert logging.get_verbosity() == before != logging.ERROR


def swap_two_pixels(path):
    """Keeps the pixel sum: only the file's own checksum can tell."""
    content = bytearray(path.read_bytes())
    first = content.index(b"\x93NUMPY") + 128
    second = next(i for i in range(first, first + 99) if content[i] != content[first])
    content[first], content[second] = content[second], content[first]
    path.write_bytes(content)


def store(path, x, y):
    np.savez(path, x=x, y=y)


DAMAGE = {
    "empty": lambda path, tiny: path.write_bytes(b""),
    "cut": lambda path, tiny: path.write_bytes(path.read_bytes()[:-200]),
    "swapped": lambda path, tiny: swap_two_pixels(path),
    "no zip": lambda path, tiny: path.write_text("no arrays here"),
    "pickled": lambda path, tiny: store(path, tiny.x.astype(object), tiny.y),
    "no labels": lambda path, tiny: np.savez(path, x=tiny.x),
    "reversed": lambda path, tiny: store(path, tiny.x[::-1], tiny.y.astype(np.int32)),
    "other shape": lambda path, tiny: store(
        path, tiny.x.reshape(25, 3, 4, 1), tiny.y.astype(np.int32)
    ),
    "bad label": lambda path, tiny: store(path, tiny.x, tiny.y.astype(np.int32) + 9),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_arrays_are_prepared_again(tiny, offline, warned, damage):
    prepared(tiny)
    DAMAGE[damage](cache_file(tiny), tiny)
    assert_is(tiny, prepared(tiny))
    (line,) = warned
    assert f"{cache_file(tiny)} is damaged" in line
    assert "\n" not in line
    assert_is(tiny, prepared(tiny))
    assert len(warned) == 1


@pytest.mark.parametrize("keep", [0, 40, -1])
def test_damaged_raw_file_is_one_sentence_and_leaves_nothing(tiny, offline, keep):
    """Empty, cut in two, cut by one byte; then the file is repaired."""
    path = tiny.folder / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    path.write_bytes(good[:keep])
    with pytest.raises(errors.InputError) as caught:
        prepared(tiny)
    message = str(caught.value)
    assert f"{path} (from --manual_dir) is truncated, damaged" in message
    assert "\n" not in message
    assert os.listdir(tiny.options.data_dir) == []
    path.write_bytes(good)
    assert_is(tiny, prepared(tiny))


def test_another_datasets_raw_file_is_refused(tiny, offline):
    labels = tiny.folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes((tiny.folder / "train-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(errors.InputError, match="or another dataset's: its SHA-256 is"):
        prepared(tiny)


def test_unreadable_raw_file_is_one_sentence(tiny, offline):
    path = tiny.folder / "train-images-idx3-ubyte.gz"
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.InputError) as caught:
        prepared(tiny)
    assert str(caught.value) == (
        f"{path} (from --manual_dir) cannot be read: Is a directory."
    )


def test_arrays_that_are_not_the_dataset_are_not_stored(tiny, offline):
    """What would happen if the raw files of one dataset went under another's name."""
    source = dataclasses.replace(tiny.source, test_pixel_sum=1)
    with pytest.raises(errors.InputError, match="mnist is not itself: the pixel sums"):
        tfds_images.load(source, tiny.options)
    assert os.listdir(tiny.options.data_dir) == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_no_network_and_no_files_is_one_sentence(tmp_path, offline, name):
    """With TFDS's own addresses; it has to end in seconds, not in minutes."""
    options = data.SourceOptions(data_dir=str(tmp_path))
    with pytest.raises(errors.InputError) as caught:
        data.load(name, options)
    message = str(caught.value)
    assert_one_sentence(message)
    assert f"{name} is neither prepared in --data_dir={tmp_path}" in message
    assert "--manual_dir (not given)" in message
    assert "could not be downloaded (ProxyError)" in message
    assert f"train-labels-idx1-ubyte.gz in DIR/{name}" in message
    assert os.listdir(tmp_path) == []


def test_a_missing_raw_file_is_one_sentence(tiny, offline):
    (tiny.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(errors.InputError) as caught:
        prepared(tiny)
    assert_one_sentence(str(caught.value))
    looked = f"nor complete as raw files in --manual_dir={tiny.folder.parent}"
    assert looked in str(caught.value)


def test_data_dir_that_cannot_be_written_is_one_sentence(tiny, tmp_path, offline):
    """Below a regular file: that stops root too."""
    (tmp_path / "file").write_text("")
    data_dir = str(tmp_path / "file" / "below")
    options = dataclasses.replace(tiny.options, data_dir=data_dir)
    with pytest.raises(errors.InputError) as caught:
        tfds_images.load(tiny.source, options)
    assert str(caught.value) == (
        f"dataset mnist could not be prepared in --data_dir={data_dir} (Not a "
        "directory): give a folder that can be written and has room."
    )


def test_data_dir_elsewhere_is_refused(tiny):
    with pytest.raises(errors.InputError, match="must be a folder of this machine"):
        dataclasses.replace(tiny.options, data_dir="gs://bucket/data")


@pytest.mark.parametrize(
    "package", ["array_record", "importlib_resources", "PIL", "tensorflow_datasets"]
)
def test_missing_package_is_one_sentence(tiny, monkeypatch, offline, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.InputError, match=f"and {package} is missing") as caught:
        prepared(tiny)
    assert_one_sentence(str(caught.value))


def test_default_data_dir_and_home_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    default = data.SourceOptions().data_path()
    assert default == tmp_path / ".cache" / "permfl_jax"
    given = data.SourceOptions(data_dir="~/here", manual_dir="~/raw")
    assert given.data_path() == tmp_path / "here"
    assert given.manual_path("mnist") == tmp_path / "raw" / "mnist"
