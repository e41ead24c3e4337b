"""Pooled training against a plain loop and gradient descent in closed form."""

import dataclasses

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.pooled import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    place = world(name)
    x, seen = oracles_baselines.pooled_loop(
        place.gradient, place.start, alpha=0.1, rounds=3, steps=6, **place.flat
    )
    state = place.run("pooled", {"device_lr": 0.1}, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.device is None
    assert state.team is None


@pytest.mark.parametrize("name", ["uniform", "samples"])
def test_is_gradient_descent_on_the_weighted_mean(name):
    """c + (I - αH̄)^{TKL}(x⁰ - c), with H̄ = Σ p_n H_n and c the optimum of Σ p_n f_n."""
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], name)
    share = place.weight / place.weight.sum()
    centre = oracles_baselines.pooled_optimum(f, share)
    left = np.eye(3) - 0.3 * np.einsum("d,dij->ij", share, f.hessian)
    x = centre + np.linalg.matrix_power(left, 12) @ (place.start - centre)
    few = place.run("pooled", {"device_lr": 0.3}, 2, **STEPS)
    np.testing.assert_allclose(few.server, x, rtol=1e-12)
    many = place.run("pooled", {"device_lr": 0.3}, 20, **STEPS)
    np.testing.assert_allclose(many.server, centre, rtol=1e-10)


def test_weights_by_samples_make_it_descent_on_the_union_of_the_samples():
    place = dataclasses.replace(
        world("batches"), schedule={"batch_size": None, "weights": "samples"}
    )
    pool = {k: np.asarray(v) for k, v in place.federation.train.pool.items()}
    x = place.start
    for _ in range(2 * 6):
        weight, bias = x[:15].reshape(3, 5), x[15:]
        parts = oracles.mclr_gradient(weight, bias, pool["x"], pool["y"])
        x = x - 0.3 * np.concatenate([part.ravel() for part in parts])
    state = place.run("pooled", {"device_lr": 0.3}, 2, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)


@pytest.mark.parametrize("value", [0.0, -0.1, float("inf")])
def test_the_step_size_is_checked(value):
    with pytest.raises(InputError, match="--hparam=device_lr must be"):
        HParams(device_lr=value)
