"""FedAvg's model to the bit, and then gradient descent of each device."""

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.finetune import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1, "personal_lr": 0.2}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    """Training: K·L steps. Afterwards: L steps of every device, absent ones too."""
    place = world(name)
    x, seen = oracles_baselines.fedavg_loop(
        place.gradient, place.start, alpha=0.1, rounds=2, steps=6, **place.flat
    )
    state = place.run("finetune", NUMBERS, 2, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)
    expected = []
    for n in range(len(place.team)):
        theta = x
        for step in range(3):
            theta = theta - 0.2 * place.tuning(n, step, theta)
        expected.append(theta)
    got = place.personalized("finetune", NUMBERS, state, **STEPS)
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    assert state.device is None


@pytest.mark.parametrize("name", ["samples_draws", "samples_draws_batches"])
def test_the_global_model_is_fedavg_to_the_bit(name):
    place = world(name)
    tuned = place.run("finetune", NUMBERS, 3, **STEPS)
    plain = place.run("fedavg", {"device_lr": 0.1}, 3, **STEPS)
    np.testing.assert_array_equal(vectors(tuned.server, 1), vectors(plain.server, 1))


def test_personal_models_are_gradient_descent_in_closed_form():
    """θ_n = c_n + (I - αH_n)^L (x - c_n), x the fixed point of FedAvg."""
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f)
    state = place.run("finetune", NUMBERS, 120, **STEPS)
    x = oracles_baselines.fixed_point(
        *oracles_baselines.fedavg_map(f, place.weight, 0.1, 6)
    )
    got = place.personalized("finetune", NUMBERS, state, **STEPS)
    np.testing.assert_allclose(got, oracles_baselines.descent(f, x, 0.2, 3), rtol=1e-10)


def test_many_steps_end_at_the_local_optima():
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place, long = of_quadratics(f), {"team_steps": 1, "device_steps": 150}
    state = place.run("finetune", NUMBERS, 1, **long)
    got = place.personalized("finetune", NUMBERS, state, **long)
    np.testing.assert_allclose(got, oracles_baselines.local_optima(f), rtol=1e-6)


@pytest.mark.parametrize("name", ["device_lr", "personal_lr"])
def test_numbers_are_checked(name):
    with pytest.raises(InputError, match=f"--hparam={name} must be above 0"):
        HParams(**{name: 0.0})
