"""The benchmark's own arithmetic on a tiny case; its figures are not asserted."""

import numpy as np

from experiments import benchmark


def test_a_case_against_itself_is_measured():
    tiny = benchmark.Case((1, 2), (5, 70, 9), None, 1, 2)
    figures = benchmark.ratio(tiny, tiny, pairs=3)
    assert 0 < figures["min"] <= figures["median"] <= figures["max"]


def test_lognormal_counts_are_skewed_about_the_mean():
    counts = np.array(benchmark.lognormal_counts(40, 550))
    assert counts.min() >= 1
    assert abs(counts.mean() - 550) < 5
    assert counts.max() > 5 * np.median(counts)
