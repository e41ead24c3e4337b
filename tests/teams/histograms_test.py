"""Shares of labels."""

import numpy as np

from permfl_jax.teams import histograms


def test_shares_of_a_device_without_samples():
    assert histograms.shares(np.array([[2, 2], [0, 0]])).tolist() == [
        [0.5, 0.5],
        [0, 0],
    ]
