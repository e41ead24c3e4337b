import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permfl_jax.errors import InputError
from permfl_jax.split import split


def sizes(count, *fractions):
    train, validation, test = split(
        np.random.default_rng(0), [np.arange(count)], *fractions
    )
    return len(train[0]), len(validation[0]), len(test[0])


@pytest.mark.parametrize(
    ("count", "fractions", "expected"),
    [
        (100, (), (75, 10, 15)),
        (20, (), (15, 2, 3)),
        (10, (), (7, 1, 2)),  # 1.5 is rounded up
        (50, (0.29, 0.0), (35, 15, 0)),  # 14.5; in binary a little less
        (50, (0.0, 0.25), (37, 0, 13)),
        (5, (), (3, 1, 1)),  # .5 is 1, .75 is 1
        (3, (), (1, 1, 1)),  # .3 is raised to 1
        (4, (0.01, 0.01), (2, 1, 1)),
        (3, (0.9, 0.05), (1, 1, 1)),
        (4, (0.05, 0.9), (1, 1, 2)),
        (3, (0.5, 0.49), (1, 1, 1)),
        (5, (0.99, 0.0), (1, 4, 0)),
        (2, (), (2, 0, 0)),
        (1, (), (1, 0, 0)),
        (0, (), (0, 0, 0)),
        (7, (0.0, 0.0), (7, 0, 0)),
    ],
)
def test_sizes(count, fractions, expected):
    assert sizes(count, *fractions) == expected


fractions = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 60), max_size=5), fractions, fractions, st.integers(0))
def test_nothing_is_lost(counts, validation_fraction, test_fraction, seed):
    if validation_fraction + test_fraction >= 1:
        test_fraction = 0.0
    ends = np.cumsum(counts, dtype=int)
    indices = [np.arange(b - n, b) for b, n in zip(ends, counts, strict=True)]
    rng = np.random.default_rng(seed)
    parts = split(rng, indices, validation_fraction, test_fraction)
    for rows, train, validation, test in zip(indices, *parts, strict=True):
        together = np.concatenate([train, validation, test])
        assert together.dtype == np.int64
        assert sorted(together) == list(rows)
        assert len(train) >= min(1, len(rows))
        for part, fraction in (
            (validation, validation_fraction),
            (test, test_fraction),
        ):
            if len(rows) < 3 or not fraction:
                assert not len(part)
            else:
                assert len(part) >= 1
                assert len(part) <= max(1, fraction * len(rows) + 0.5 + 1e-9)


def test_shuffled_by_the_seed():
    indices = [np.arange(100), np.arange(100, 160)]
    one, again, other = (split(np.random.default_rng(s), indices) for s in (0, 0, 1))
    flat = [
        [rows.tolist() for part in parts for rows in part] for parts in (one, again)
    ]
    assert flat[0] == flat[1]
    assert one[0][0].tolist() != other[0][0].tolist()
    assert one[2][0].tolist() != sorted(one[2][0].tolist())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(InputError, match=r"--validation_fraction=.* from 0 to below 1"):
        sizes(9, fraction, 0.1)
    with pytest.raises(InputError, match=r"--test_fraction=.* from 0 to below 1"):
        sizes(9, 0.1, fraction)


def test_fractions_that_leave_nothing_are_refused():
    message = "--validation_fraction=0.5 and --test_fraction=0.5.*below 1"
    with pytest.raises(InputError, match=message):
        sizes(9, 0.5, 0.5)
