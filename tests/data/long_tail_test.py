"""Classes made rare: counts by the law, nested in each other."""

import math

import numpy as np
import pytest

from permfl_jax.data import long_tail
from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError


def examples(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(5, dtype=np.int32), (40, 30, 0, 20, 50)))
    x = np.arange(len(y), dtype=np.float32)[:, None]
    return Examples(x, y, 5, 1.0, 0.0, group=(y % 2).astype(np.int32))


def test_each_class_keeps_its_share():
    whole = examples()
    rest = long_tail.thin(whole, 16, seed=3)
    counts = np.bincount(whole.y, minlength=5)
    expected = [math.ceil(16 ** (-c / 4) * n - 1e-9) for c, n in enumerate(counts)]
    assert np.bincount(rest.y, minlength=5).tolist() == expected
    rows = rest.x[:, 0].astype(int)
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(whole.y[rows], rest.y)
    assert np.array_equal(whole.group[rows], rest.group)
    assert rest.device is None


def test_more_leaves_out_the_same_and_more():
    kept = [
        set(long_tail.thin(examples(), factor, seed=1).x[:, 0]) for factor in (1, 4, 64)
    ]
    assert kept[2] < kept[1] < kept[0]
    assert kept[1] != set(long_tail.thin(examples(), 4, seed=2).x[:, 0])


def test_one_changes_nothing():
    whole = examples()
    assert long_tail.thin(whole, 1, seed=0) is whole


@pytest.mark.parametrize("factor", [0.5, 0, -1, 2e6, math.nan, math.inf])
def test_other_factors_are_refused(factor):
    with pytest.raises(InputError, match=r"--class_imbalance=.* 1 to 1,000,000"):
        long_tail.thin(examples(), factor, seed=0)
