import draws
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permfl_jax.partitions.partition import PartitionOptions
from permfl_jax.partitions.two_level_dirichlet import draw_wanted, taken

SIZES = np.array([100, 300, 0, 600])
SHARES = SIZES / 1000


@pytest.mark.parametrize(("team_alpha", "device_alpha"), [(0.3, 2.0), (5.0, 0.1)])
def test_both_levels_have_the_moments_of_the_law(team_alpha, device_alpha):
    """Mean p; Cov of two devices of a team is the team's variance, and so on.

    With A = 3 team_alpha and B = 3 device_alpha (three classes have examples), v the
    team's variance p (1 - p) / (A + 1), a device has v + (p (1 - p) - v) / (B + 1).
    """
    options = PartitionOptions(
        team_sizes=(2, 1), team_alpha=team_alpha, device_alpha=device_alpha
    )
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_wanted(rng, SIZES, options) for _ in range(8000)])
    full = SHARES * (1 - SHARES)
    team = full / (3 * team_alpha + 1)
    device = team + (full - team) / (3 * device_alpha + 1)
    for d in range(3):
        draws.check_moments(drawn[:, d], SHARES, device)
    # Half the sum of two team mates: variance (device + team) / 2. Of devices of
    # different teams: device / 2.
    draws.check_moments(drawn[:, :2].mean(axis=1), SHARES, (device + team) / 2)
    draws.check_moments(drawn[:, 1:].mean(axis=1), SHARES, device / 2)


def small_steps(wanted, supply, steps):
    """Everybody takes a little at a time of what is left: the rule in slow motion."""
    left, total = supply.astype(float), np.zeros_like(wanted)
    for _ in range(steps):
        for d, own in enumerate(wanted):
            rate = own * (left > 1e-9)
            rate = rate if rate.sum() > 0 else left
            bite = rate / rate.sum() * supply.sum() / len(wanted) / steps
            bite = np.minimum(bite, left)
            total[d] += bite
            left = left - bite
    return total


@pytest.mark.parametrize("seed", range(3))
def test_taken_is_the_limit_of_small_steps(seed):
    rng = np.random.default_rng(seed)
    wanted = rng.dirichlet([0.3] * 4, 5)
    supply = np.array([100, 50, 20, 30])
    slow = small_steps(wanted, supply, 4000)
    np.testing.assert_allclose(taken(wanted, supply), slow, atol=0.2)


@settings(deadline=None, max_examples=200)
@given(
    supply=st.lists(st.integers(0, 1000), min_size=1, max_size=8),
    num_devices=st.integers(1, 9),
    alpha=st.sampled_from([1e-9, 1e-3, 0.1, 1.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_taken_uses_everything_and_treats_all_alike(supply, num_devices, alpha, seed):
    supply = np.array(supply)
    rng = np.random.default_rng(seed)
    wanted = rng.dirichlet([1.0] * len(supply), num_devices) ** (1 / alpha)
    wanted[wanted.sum(axis=1) == 0, 0] = 1.0
    wanted /= wanted.sum(axis=1, keepdims=True)
    result = taken(wanted, supply)
    assert result.min() >= 0
    np.testing.assert_allclose(result.sum(axis=0), supply, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(
        result.sum(axis=1), supply.sum() / num_devices, rtol=1e-9, atol=1e-6
    )


def test_wishes_that_fit_are_granted():
    wanted = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    np.testing.assert_allclose(
        taken(wanted, np.array([20, 10, 10])), 20 * wanted, rtol=1e-12
    )


def test_who_wants_none_of_what_is_left_takes_it_as_it_is_left():
    wanted = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    expected = [[10, 20, 10], [10, 20, 10]]
    np.testing.assert_allclose(taken(wanted, np.array([20, 40, 20])), expected)
    # By hand: the first has its 10 when the second has 10 of 40. Then the first takes
    # 30 : 10 and the second of its own alone, until 30 / 1.75 more each; the rest of
    # the last class is shared.
    wanted = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    more = 30 / 1.75
    rest = (10 - more / 4) / 2
    expected = [[10, 0.75 * more, 0.25 * more + rest], [0, 10 + more, rest]]
    np.testing.assert_allclose(taken(wanted, np.array([10, 40, 10])), expected)


def test_devices_are_of_equal_size_and_teams_differ():
    """Two teams that each want one of two classes get it, when they do differ."""
    examples = draws.labels([1000, 1000])
    seen = set()
    for seed in range(8):
        partition = draws.run(
            "two_level_dirichlet",
            examples,
            (3, 3),
            seed,
            team_alpha=1e-6,
            device_alpha=1e6,
        )
        counts = draws.class_counts(partition, examples)
        assert np.ptp(counts.sum(axis=1)) <= 2
        distance = partition.report["distance_from_law"]
        shares = counts / counts.sum(axis=1, keepdims=True)
        if distance < 0.01:
            assert (shares[:3].max(axis=0) < 0.01).any()  # one class alone
            np.testing.assert_allclose(shares[:3], 1 - shares[3:], atol=0.01)
        else:  # both wanted the same class: half of what they have is the other
            np.testing.assert_allclose(shares, 0.5, atol=0.01)
            np.testing.assert_allclose(distance, 0.5, atol=0.01)
        seen.add(round(distance, 1))
    assert seen == {0.0, 0.5}


def test_small_alphas_give_one_class_to_a_device():
    """20 devices and 40 equal classes: a device gets whole classes, a few of them."""
    examples = draws.labels([50] * 40)
    partition = draws.run(
        "two_level_dirichlet", examples, (20,), team_alpha=1e6, device_alpha=1e-6
    )
    counts = draws.class_counts(partition, examples)
    commonest = (counts.max(axis=1) / counts.sum(axis=1)).mean()
    assert commonest > 0.4  # 0.5 would be one whole class; equal shares are 0.025
