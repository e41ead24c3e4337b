"""h-SGD against a plain loop and the round map with (λ, a, b, g) = (0, 1, 0, 1)."""

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.hsgd import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    """Devices are drawn anew in every team round; the server averages who acted."""
    place = world(name)
    x, w, seen = oracles_baselines.hsgd_loop(
        place.gradient,
        place.start,
        place.team,
        alpha=0.1,
        rounds=3,
        team_steps=2,
        device_steps=3,
        weight=place.weight,
        team_weight=place.team_weight,
        acting_teams=place.teams,
        acting_devices=place.devices,
    )
    state = place.run("hsgd", NUMBERS, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    np.testing.assert_allclose(vectors(state.team, len(w)), w, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.device is None


@pytest.mark.parametrize("name", ["uniform", "samples"])
def test_rounds_are_the_affine_map_and_end_at_its_fixed_point(name):
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], name)
    for i, of_team in enumerate(place.team_weight):
        f.p[f.team == i] = place.weight[f.team == i]
        f.p[f.team == i] /= place.weight[f.team == i].sum()
        f.q[i] = of_team / place.team_weight.sum()
    loops = {"team_steps": 2, "device_steps": 3}
    matrix, vector = oracles.round_map(f, 0.1, 0.0, 1.0, 0.0, 1.0, **loops)
    few = place.run("hsgd", NUMBERS, 1, **STEPS)
    np.testing.assert_allclose(few.server, matrix @ place.start + vector, rtol=1e-12)
    many = place.run("hsgd", NUMBERS, 120, **STEPS)
    fixed = oracles_baselines.fixed_point(matrix, vector)
    np.testing.assert_allclose(many.server, fixed, rtol=1e-10)


def test_absent_teams_keep_their_bits():
    place = world("draws")
    before = place.run("hsgd", NUMBERS, 2, **STEPS)
    after = place.run("hsgd", NUMBERS, 3, **STEPS)
    same = np.asarray(before.team) == np.asarray(after.team)
    acted = np.isin(np.arange(3), place.teams(2))
    np.testing.assert_array_equal(same.all(axis=1), ~acted)


def test_other_rules_of_aggregation_count_absent_teams():
    """Round 1: `stale` gives teams that never acted the first model."""
    place = world("draws")
    first, weight = place.start, np.isin(np.arange(3), place.teams(0))
    ends = {
        rule: place.run("hsgd", NUMBERS, 1, **STEPS, aggregate=rule)
        for rule in ("participants", "stale", "stale_seen")
    }
    w = np.asarray(ends["participants"].team)
    np.testing.assert_array_equal(w[~weight], [first])
    seen = w[weight].mean(axis=0)
    np.testing.assert_allclose(ends["participants"].server, seen, rtol=1e-12)
    np.testing.assert_allclose(ends["stale_seen"].server, seen, rtol=1e-12)
    np.testing.assert_allclose(ends["stale"].server, w.mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(ends["stale_seen"].extra, weight)


def test_keeping_no_personal_models_changes_nothing():
    place = world("samples_draws")
    kept, dropped = (
        place.run("hsgd", NUMBERS, 2, **STEPS, keep_personal=keep)
        for keep in (True, False)
    )
    np.testing.assert_array_equal(kept.server, dropped.server)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_the_step_size_is_checked(value):
    with pytest.raises(InputError, match="--hparam=device_lr must be"):
        HParams(device_lr=value)
