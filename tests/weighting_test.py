"""Both levels of weights against NumPy."""

import numpy as np
import pytest
from federations import classes_federation

from permfl_jax import weighting
from permfl_jax.schedule import Schedule

COUNTS, TEAMS = [4, 1, 7, 2, 2], [0, 0, 1, 2, 2]


@pytest.fixture(scope="module")
def federation():
    return classes_federation(0, COUNTS, TEAMS)[0]


def test_uniform_weights_ignore_the_counts(federation):
    schedule = Schedule(weights="uniform")
    np.testing.assert_array_equal(
        weighting.device_weights(schedule, federation), np.ones(5)
    )
    np.testing.assert_array_equal(
        weighting.team_weights(schedule, federation, 3), np.ones(3)
    )


def test_sample_weights_are_counts_of_devices_and_of_whole_teams(federation):
    schedule = Schedule(weights="samples")
    np.testing.assert_array_equal(
        weighting.device_weights(schedule, federation), COUNTS
    )
    np.testing.assert_array_equal(
        weighting.team_weights(schedule, federation, 3),
        np.bincount(TEAMS, weights=COUNTS),
    )


def test_means_by_samples_at_both_levels_are_the_mean_over_all_samples(federation):
    """What makes `samples` the weights of the pooled objective."""
    schedule = Schedule(weights="samples")
    p = np.asarray(weighting.device_weights(schedule, federation))
    q = np.asarray(weighting.team_weights(schedule, federation, 3))
    per_device = np.random.default_rng(1).normal(size=5)
    team = np.array(TEAMS)
    teams = [np.average(per_device[team == i], weights=p[team == i]) for i in range(3)]
    assert np.average(teams, weights=q) == pytest.approx(
        np.repeat(per_device, COUNTS).mean(), rel=1e-14
    )
