import draws
import numpy as np
import pytest


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_shares_have_the_moments_of_the_law(alpha):
    """Share of a class at one of D devices: 1 / D, (D - 1) / (D² (D α + 1)).

    10,000 examples a class: rounding moves a share by less than 1e-4. One device is
    followed, since the devices of a draw are not independent of each other.
    """
    examples = draws.labels([10_000] * 2)
    shares = np.stack(
        [
            draws.class_counts(
                draws.run(
                    "dirichlet", examples, (8,), s, dirichlet_alpha=alpha, min_samples=1
                ),
                examples,
            )[3]
            for s in range(1500)
        ]
    )
    num_devices = 8
    variance = (num_devices - 1) / (num_devices**2 * (num_devices * alpha + 1))
    draws.check_moments(shares / 10_000, 1 / num_devices, variance)
    # Classes are drawn apart from each other.
    correlation = np.corrcoef(shares.T)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(1500)


def test_a_small_alpha_gives_each_class_to_one_device():
    """But for the single sample that fills up those who would have none."""
    examples = draws.labels([300] * 10)
    for seed in range(20):
        partition = draws.run(
            "dirichlet", examples, (6,), seed, dirichlet_alpha=1e-6, min_samples=1
        )
        counts = draws.class_counts(partition, examples)
        assert (counts.max(axis=0) >= 300 - 5).all()


def test_filling_up_is_counted():
    examples = draws.labels([300] * 2)
    partition = draws.run(
        "dirichlet", examples, (6,), dirichlet_alpha=1e-6, min_samples=20
    )
    # Two devices at most have a class each; the other four or five get 20.
    assert partition.report["samples_moved"] in (80, 100)
    assert partition.report["samples_min"] == 20
