"""FedAvg against a plain loop, its affine map, and the bias of its fixed point."""

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.fedavg import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    """K·L steps of whoever acts; the mean is over them, whatever their team."""
    place = world(name)
    x, seen = oracles_baselines.fedavg_loop(
        place.gradient, place.start, alpha=0.1, rounds=3, steps=6, **place.flat
    )
    state = place.run("fedavg", {"device_lr": 0.1}, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.device is None
    assert state.team is None


@pytest.mark.parametrize("name", ["uniform", "samples"])
def test_rounds_are_the_affine_map_and_end_at_its_fixed_point(name):
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], name)
    matrix, vector = oracles_baselines.fedavg_map(f, place.weight, 0.2, 6)
    x = place.start
    for _ in range(4):
        x = matrix @ x + vector
    few = place.run("fedavg", {"device_lr": 0.2}, 4, **STEPS)
    np.testing.assert_allclose(few.server, x, rtol=1e-12)
    many = place.run("fedavg", {"device_lr": 0.2}, 60, **STEPS)
    fixed = oracles_baselines.fixed_point(matrix, vector)
    np.testing.assert_allclose(many.server, fixed, rtol=1e-10)
    optimum = oracles_baselines.pooled_optimum(f, place.weight)
    assert np.linalg.norm(fixed - optimum) > 1e-2 * np.linalg.norm(optimum)


def test_one_step_a_round_has_no_bias():
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f)
    state = place.run("fedavg", {"device_lr": 0.5}, 120, team_steps=1, device_steps=1)
    optimum = oracles_baselines.pooled_optimum(f, place.weight)
    np.testing.assert_allclose(state.server, optimum, rtol=1e-10)


def test_keeping_no_personal_models_changes_nothing():
    place = world("samples_draws")
    kept, dropped = (
        place.run("fedavg", {"device_lr": 0.1}, 2, **STEPS, keep_personal=keep)
        for keep in (True, False)
    )
    np.testing.assert_array_equal(kept.server, dropped.server)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_the_step_size_is_checked(value):
    with pytest.raises(InputError, match="--hparam=device_lr must be"):
        HParams(device_lr=value)
