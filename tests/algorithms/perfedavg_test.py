"""First-order Per-FedAvg against a plain loop, its affine map and one step in NumPy."""

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.perfedavg import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1, "adapt_lr": 0.25}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    """Two mini-batches a step: the first looks ahead, the second moves the model."""
    place = world(name)
    x, seen = oracles_baselines.perfedavg_loop(
        place.gradient,
        place.start,
        alpha=0.25,
        beta=0.1,
        rounds=3,
        steps=6,
        **place.flat,
    )
    state = place.run("perfedavg", NUMBERS, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.device is None


@pytest.mark.parametrize("name", ["uniform", "samples_draws_batches"])
def test_personal_models_are_one_step_away_from_the_server(name):
    """PM = x - α∇f_n(x) on the first mini-batch of a stream of its own."""
    place = world(name)
    state = place.run("perfedavg", NUMBERS, 2, **STEPS)
    x = vectors(state.server, 1)[0]
    expected = [x - 0.25 * place.tuning(n, 0, x) for n in range(len(place.team))]
    got = place.personalized("perfedavg", NUMBERS, state, **STEPS)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["uniform", "samples"])
def test_rounds_are_the_affine_map_and_end_at_its_fixed_point(name):
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], name)
    matrix, vector = oracles_baselines.perfedavg_map(f, place.weight, 0.25, 0.1, 6)
    x = place.start
    for _ in range(4):
        x = matrix @ x + vector
    few = place.run("perfedavg", NUMBERS, 4, **STEPS)
    np.testing.assert_allclose(few.server, x, rtol=1e-12)
    many = place.run("perfedavg", NUMBERS, 150, **STEPS)
    fixed = oracles_baselines.fixed_point(matrix, vector)
    np.testing.assert_allclose(many.server, fixed, rtol=1e-10)


def test_one_step_a_round_ends_where_the_gradients_after_adapting_cancel():
    """Σ p_n ∇f_n(x - α∇f_n(x)) = 0, and the pooled optimum is elsewhere."""
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f)
    state = place.run("perfedavg", NUMBERS, 500, team_steps=1, device_steps=1)
    ahead = place.personalized(
        "perfedavg", NUMBERS, state, team_steps=1, device_steps=1
    )
    slopes = [place.gradient(n, 0, u) for n, u in enumerate(ahead)]
    np.testing.assert_allclose(np.mean(slopes, axis=0), 0, atol=1e-10)
    pooled = oracles_baselines.pooled_optimum(f, place.weight)
    assert np.abs(state.server - pooled).max() > 1e-2


@pytest.mark.parametrize(("name", "value"), [("device_lr", 0.0), ("adapt_lr", -1.0)])
def test_numbers_are_checked(name, value):
    with pytest.raises(InputError, match=f"--hparam={name} must be"):
        HParams(**{name: value})
