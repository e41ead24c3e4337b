"""Models sent in a round, counted by hand and by who is really drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import classes_federation

from permfl_jax import keys, traffic
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

SCHEDULE = Schedule(team_steps=3, device_steps=5)
SIZES = (2, 3, 4)


@pytest.mark.parametrize(
    ("draws", "two", "three"),
    [
        # All 9 devices once; 3 x 9 devices and 3 teams.
        ((None, None), (9, 9, 0, 0), (27, 27, 3, 3)),
        # 2 of each team; the two largest of these.
        ((None, 2), (6, 6, 0, 0), (18, 18, 3, 3)),
        ((2, 2), (4, 4, 0, 0), (12, 12, 2, 2)),
        ((1, 1), (1, 1, 0, 0), (3, 3, 1, 1)),
    ],
)
def test_models_each_way(draws, two, three):
    sampler = Sampler(SIZES, *draws)
    assert traffic.two_tier(None, SCHEDULE, sampler) == two
    assert traffic.three_tier(None, SCHEDULE, sampler) == three
    assert traffic.none(None, SCHEDULE, sampler) == (0, 0, 0, 0)


@pytest.mark.parametrize("draws", [(None, None), (None, 2), (2, 2), (1, 1)])
def test_as_many_devices_are_counted_as_are_drawn(draws):
    """With fewer than 3 of each team, all teams send as many."""
    federation, _ = classes_federation(0, [2] * 9, np.repeat([0, 1, 2], SIZES).tolist())
    sampler = Sampler(SIZES, *draws)
    key = keys.participation_key(jax.random.key(0), jnp.int32(0))
    teams = sampler.draw_teams(key)
    cohort = sampler.draw_devices(key, jnp.int32(0), teams, federation)
    drawn = 9 if cohort.present is None else int(cohort.present.sum())
    assert traffic.two_tier(None, SCHEDULE, sampler).device_up == drawn


@pytest.mark.parametrize(
    ("name", "device", "team"),
    [
        ("fedavg", 9, 0),
        ("fedprox", 9, 0),
        ("finetune", 9, 0),
        ("perfedavg", 9, 0),
        ("pfedme", 9, 0),
        ("ditto", 9, 0),
        ("scaffold", 18, 0),  # a control with each model
        ("pooled", 0, 0),
        ("local", 0, 0),
        ("hsgd", 27, 3),
        ("permfl", 27, 3),
    ],
)
def test_what_each_method_sends(name, device, team):
    entry = ALGORITHMS[name]
    sent = entry.traffic(entry.hparams(), SCHEDULE, Sampler(SIZES))
    assert sent == (device, device, team, team)


def test_a_reading_is_a_gradient_more_from_each_device():
    entry = ALGORITHMS["permfl_auto"]
    sent = entry.traffic(entry.hparams(), SCHEDULE, Sampler(SIZES))
    assert sent == (27 + 9, 27, 3, 3)


def test_several_models_at_once():
    assert traffic.Traffic(1, 2, 3, 4).times(2) == (2, 4, 6, 8)
