"""What the tests of partitions share."""

from typing import NamedTuple

import numpy as np

from permfl_jax.partitions import PARTITIONS
from permfl_jax.partitions.partition import PartitionOptions


class Labels(NamedTuple):
    """The fields of `Examples` that partitions read."""

    y: np.ndarray
    num_classes: int
    device: np.ndarray | None = None
    group: np.ndarray | None = None


def labels(class_sizes, **more):
    """Shuffled labels with the given number of each class."""
    y = np.repeat(np.arange(len(class_sizes), dtype=np.int32), class_sizes)
    return Labels(np.random.default_rng(99).permutation(y), len(class_sizes), **more)


def run(name, examples, team_sizes, seed=0, **numbers):
    options = PartitionOptions(team_sizes=team_sizes, **numbers)
    return PARTITIONS[name](np.random.default_rng([seed, 1]), examples, options)


def class_counts(partition, examples):
    """`[D, C]`."""
    return np.stack(
        [
            np.bincount(examples.y[rows], minlength=examples.num_classes)
            for rows in partition.indices
        ]
    )


def check(partition, examples, num_devices, everything=True):
    """What holds for every partition."""
    indices, report = partition
    assert len(indices) == num_devices
    assert all(rows.dtype == np.int64 for rows in indices)
    used = np.sort(np.concatenate(indices))
    if everything:
        np.testing.assert_array_equal(used, np.arange(len(examples.y)))
    else:
        assert (np.diff(used) > 0).all()
        assert used[0] >= 0
        assert used[-1] < len(examples.y)
    sizes = [len(rows) for rows in indices]
    assert min(sizes) >= 1
    assert report["samples_used"] == sum(sizes)
    assert report["samples_available"] == len(examples.y)
    assert report["samples_min"] == min(sizes)
    assert report["samples_median"] == np.median(sizes)
    assert report["samples_max"] == max(sizes)


def check_moments(draws, mean, variance):
    """Each column of `[n, ...]` independent draws has these moments, to 5 errors.

    One such comparison is false by chance with a probability of 6e-7.
    """
    n = len(draws)
    spread = draws.std(axis=0)
    np.testing.assert_array_less(
        np.abs(draws.mean(axis=0) - mean), 5 * spread / np.sqrt(n) + 1e-12
    )
    squares = (draws - mean) ** 2
    np.testing.assert_array_less(
        np.abs(squares.mean(axis=0) - variance),
        5 * squares.std(axis=0) / np.sqrt(n) + 1e-12,
    )
