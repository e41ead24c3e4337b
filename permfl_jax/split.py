"""Cuts what each device owns into train, validation and test."""

import decimal
from collections.abc import Sequence

import numpy as np

from permfl_jax.errors import InputError


def split(
    rng: np.random.Generator,
    indices: Sequence[np.ndarray],
    validation_fraction: float = 0.10,
    test_fraction: float = 0.15,
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Shuffles the rows of every device and cuts them in three.

    Of n rows, validation and test get their fraction of n, halves rounded up, and
    train gets the rest, 75 % by default as in the paper. From n = 3 on, each part
    with a fraction above 0, and train, gets at least one row, at the cost of the
    larger of the others. Below, train keeps all.

    Args:
      rng: the only source of randomness; used device by device, in order.
      indices: D arrays of integers, the rows of each device.
      validation_fraction: in [0, 1).
      test_fraction: in [0, 1); the two have a sum below 1.

    Returns:
      `(train, validation, test)`, each D arrays of int64; together they hold the
      rows of each device once.

    Raises:
      InputError: if the fractions are not as above.
    """
    _check(validation_fraction, test_fraction)
    train, validation, test = [], [], []
    for rows in indices:
        sizes = _sizes(len(rows), validation_fraction, test_fraction)
        shuffled = rng.permutation(np.asarray(rows, np.int64))
        parts = np.split(shuffled, np.cumsum(sizes))
        validation.append(parts[0])
        test.append(parts[1])
        train.append(parts[2])
    return train, validation, test


def _check(validation_fraction, test_fraction):
    for flag, fraction in (
        ("--validation_fraction", validation_fraction),
        ("--test_fraction", test_fraction),
    ):
        if not 0 <= fraction < 1:
            raise InputError(
                f"{flag}={fraction} was given, but a fraction from 0 to below 1 is "
                "allowed."
            )
    if validation_fraction + test_fraction >= 1:
        raise InputError(
            f"--validation_fraction={validation_fraction} and "
            f"--test_fraction={test_fraction} were given, but their sum has to be "
            "below 1, so that something is left to train on."
        )


def _sizes(count, validation_fraction, test_fraction):
    """`[validation, test]`: how many of `count` rows each of them gets."""
    if count < 3:
        return [0, 0]
    sizes = [_share(count, validation_fraction), _share(count, test_fraction)]
    # Rounding up twice can claim every row. Never needs more than the larger has.
    excess = max(0, sum(sizes) - (count - 1))
    sizes[int(sizes[1] > sizes[0])] -= excess
    return sizes


def _share(count, fraction):
    """`fraction * count`, halves up, at least 1 unless the fraction is 0."""
    # In decimal, as the user wrote it: in binary, 0.29 * 50 is below 14.5.
    exact = decimal.Decimal(str(float(fraction))) * count
    rounded = int(exact.quantize(decimal.Decimal(1), decimal.ROUND_HALF_UP))
    return max(rounded, int(fraction > 0))
