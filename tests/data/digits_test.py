"""Facts about the packaged digits that hold without trusting the loader."""

import numpy as np
import pytest

from permfl_jax import data


def load():
    return data.load("digits", data.SourceOptions())


def test_shapes_and_types():
    digits = load()
    assert digits.x.shape == (1797, 8, 8, 1)
    assert digits.x.dtype == np.uint8
    assert digits.y.shape == (1797,)
    assert digits.y.dtype == np.int32
    assert digits.num_classes == 10
    assert digits.device is None


def test_class_counts_are_those_published():
    """The distribution of the test part in the UCI repository's description."""
    counts = np.bincount(load().y)
    np.testing.assert_array_equal(
        counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )


def test_the_model_sees_minus_one_to_one():
    digits = load()
    assert (digits.x.min(), digits.x.max()) == (0, 16)
    seen = digits.x * digits.scale + digits.offset
    assert (seen.min(), seen.max()) == (-1.0, 1.0)


def test_equal_to_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits()
    digits = load()
    np.testing.assert_array_equal(digits.x[..., 0], original.images)
    np.testing.assert_array_equal(digits.y, original.target)
