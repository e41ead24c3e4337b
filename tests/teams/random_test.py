import numpy as np
import pytest

from permfl_jax.teams.random import random


def draw(seed, team_sizes):
    counts = np.ones((sum(team_sizes), 10), int)
    return random.assign(np.random.default_rng([seed, 2]), counts, team_sizes)


@pytest.mark.parametrize("team_sizes", [(2, 4, 8, 26), (10,) * 4, (1,), (1, 1, 1)])
def test_every_team_is_full(team_sizes):
    team = draw(0, team_sizes)
    assert team.dtype == np.int32
    assert np.bincount(team).tolist() == list(team_sizes)


def test_the_seed_decides():
    assert draw(0, (2, 4, 8, 26)).tolist() == draw(0, (2, 4, 8, 26)).tolist()
    assert draw(0, (2, 4, 8, 26)).tolist() != draw(1, (2, 4, 8, 26)).tolist()


def test_every_device_may_be_anywhere():
    """Uniform: of 2,000 draws, a device is in a team of 2 of 8 in 25 %, ± 5 sigma."""
    teams = np.stack([draw(seed, (2, 6)) for seed in range(2000)])
    np.testing.assert_allclose((teams == 0).mean(axis=0), 0.25, atol=0.05)


def test_it_has_no_say_in_classes():
    assert random.class_windows is None
