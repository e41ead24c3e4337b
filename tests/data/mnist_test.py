"""MNIST from its real raw files."""

import gzip

import numpy as np
import pytest

from permfl_jax import data


@pytest.fixture(scope="module")
def mnist(real_options):
    return data.load("mnist", real_options)


def test_shapes_types_and_scale(mnist):
    assert mnist.x.shape == (70_000, 28, 28, 1)
    assert mnist.x.dtype == np.uint8
    assert mnist.y.dtype == np.int32
    assert mnist.num_classes == 10
    assert mnist.device is None
    black, white = np.array([0, 255]) * mnist.scale + mnist.offset
    np.testing.assert_allclose([black, white], [-1.0, 1.0])


def test_pixel_sums(mnist):
    assert mnist.x[:60_000].sum(dtype=np.int64) == 1567298545
    assert mnist.x[60_000:].sum(dtype=np.int64) == 264923200


def test_class_counts(mnist):
    """As published with the data."""
    np.testing.assert_array_equal(
        np.bincount(mnist.y[:60_000]),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    np.testing.assert_array_equal(
        np.bincount(mnist.y[60_000:]),
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )


@pytest.mark.parametrize(
    ("prefix", "part"), [("train", slice(0, 60_000)), ("t10k", slice(60_000, 70_000))]
)
def test_order_is_that_of_the_raw_files(mnist, shared_data, prefix, part):
    """All training pictures, then all test pictures; headers have 16 and 8 bytes."""
    kinds = ("images-idx3", 16, mnist.x), ("labels-idx1", 8, mnist.y)
    for kind, header, found in kinds:
        with gzip.open(shared_data / "mnist" / f"{prefix}-{kind}-ubyte.gz") as stream:
            raw = np.frombuffer(stream.read()[header:], np.uint8)
        np.testing.assert_array_equal(found[part].reshape(-1), raw)
