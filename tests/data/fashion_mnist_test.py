"""Fashion-MNIST from its real raw files, in the data_dir that also holds MNIST."""

import pathlib
import shutil

import numpy as np
import pytest

from permfl_jax import data, errors


@pytest.fixture(scope="module")
def both(real_options):
    """MNIST first: it is the one that TFDS's extraction cache would hand out twice."""
    return data.load("mnist", real_options), data.load("fashion_mnist", real_options)


def test_shapes_types_and_classes(both):
    _, fashion = both
    assert fashion.x.shape == (70_000, 28, 28, 1)
    assert fashion.x.dtype == np.uint8
    assert fashion.y.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(fashion.y[:60_000]), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(fashion.y[60_000:]), [1000] * 10)


def test_pixel_sums(both):
    _, fashion = both
    assert fashion.x[:60_000].sum(dtype=np.int64) == 3431114169
    assert fashion.x[60_000:].sum(dtype=np.int64) == 573469082


def test_is_not_mnist(both):
    mnist, fashion = both
    assert not np.array_equal(mnist.x, fashion.x)
    assert not np.array_equal(mnist.y, fashion.y)


def test_mnists_file_is_not_taken_for_it(both, real_options, tmp_path, offline):
    """Even if it lies under Fashion-MNIST's name."""
    mnist_file = pathlib.Path(real_options.data_dir) / "mnist.npz"
    shutil.copy(mnist_file, tmp_path / "fashion_mnist.npz")
    with pytest.raises(errors.InputError, match="fashion_mnist is neither prepared"):
        data.load("fashion_mnist", data.SourceOptions(data_dir=str(tmp_path)))
