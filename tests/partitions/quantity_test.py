import draws
import numpy as np
import pytest


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_sizes_are_lognormal(sigma):
    """log(size of device 0 / size of device 1) is normal with variance 2 σ².

    20,000 examples: rounding matters for devices of a few samples alone, which
    are rare at these σ.
    """
    examples = draws.labels([20_000])
    logs = []
    for seed in range(3000):
        partition = draws.run(
            "quantity", examples, (4,), seed, quantity_sigma=sigma, min_samples=1
        )
        first, second = (len(rows) for rows in partition.indices[:2])
        logs.append(np.log(first / second))
    draws.check_moments(np.array(logs), 0.0, 2 * sigma**2)


def test_without_spread_all_sizes_are_equal():
    examples = draws.labels([500, 501])
    partition = draws.run("quantity", examples, (3, 4), quantity_sigma=0.0)
    assert {len(rows) for rows in partition.indices} == {143}
    assert partition.report["samples_moved"] == 0


def test_labels_are_iid():
    """Counts of a class at a device are hypergeometric given its size."""
    examples = draws.labels([300, 700])
    scores = []
    for seed in range(400):
        partition = draws.run("quantity", examples, (5,), seed, quantity_sigma=1.0)
        counts = draws.class_counts(partition, examples)[2]
        size = counts.sum()
        variance = size * 0.3 * 0.7 * (1000 - size) / 999
        scores.append((counts[0] - 0.3 * size) / np.sqrt(variance))
    draws.check_moments(np.array(scores), 0.0, 1.0)


def test_the_smallest_are_filled_up():
    examples = draws.labels([2000])
    partition = draws.run(
        "quantity", examples, (40,), quantity_sigma=3.0, min_samples=25
    )
    draws.check(partition, examples, 40)
    assert partition.report["samples_min"] == 25
    assert partition.report["samples_moved"] > 0
