"""FedProx against a plain loop and its affine map."""

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.fedprox import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1, "device_prox": 0.7}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    place = world(name)
    x, seen = oracles_baselines.fedavg_loop(
        place.gradient, place.start, alpha=0.1, mu=0.7, rounds=3, steps=6, **place.flat
    )
    state = place.run("fedprox", NUMBERS, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)


@pytest.mark.parametrize("name", ["uniform", "samples"])
def test_rounds_are_the_affine_map_and_end_at_its_fixed_point(name):
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], name)
    matrix, vector = oracles_baselines.fedavg_map(f, place.weight, 0.1, 6, mu=0.7)
    x = place.start
    for _ in range(4):
        x = matrix @ x + vector
    few = place.run("fedprox", NUMBERS, 4, **STEPS)
    np.testing.assert_allclose(few.server, x, rtol=1e-12)
    many = place.run("fedprox", NUMBERS, 150, **STEPS)
    fixed = oracles_baselines.fixed_point(matrix, vector)
    np.testing.assert_allclose(many.server, fixed, rtol=1e-10)


def test_the_pull_lessens_the_bias():
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f)
    optimum = oracles_baselines.pooled_optimum(f, place.weight)
    bias = {}
    for mu in (0.0, 5.0):
        numbers = {"device_lr": 0.1, "device_prox": mu}
        end = place.run("fedprox", numbers, 150, **STEPS).server
        bias[mu] = np.linalg.norm(end - optimum)
    assert bias[5.0] < 0.7 * bias[0.0]


def test_no_pull_is_fedavg():
    place = world("samples_draws_batches")
    prox = place.run("fedprox", NUMBERS | {"device_prox": 0.0}, 2, **STEPS)
    plain = place.run("fedavg", {"device_lr": 0.1}, 2, **STEPS)
    np.testing.assert_allclose(
        vectors(prox.server, 1), vectors(plain.server, 1), rtol=1e-14
    )


@pytest.mark.parametrize(("name", "value"), [("device_lr", 0.0), ("device_prox", -1.0)])
def test_numbers_are_checked(name, value):
    with pytest.raises(InputError, match=f"--hparam={name} must be"):
        HParams(**{name: value})
