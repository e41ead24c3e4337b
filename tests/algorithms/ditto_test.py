"""Ditto against a plain loop and the prox of each device at FedAvg's fixed point."""

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.ditto import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1, "personal_lr": 0.2, "device_prox": 0.8}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    """Personal models go on from what they were, pulled to the model that was sent."""
    place = world(name)
    w, v, seen = oracles_baselines.ditto_loop(
        place.gradient,
        place.start,
        alpha=0.1,
        personal=0.2,
        lam=0.8,
        rounds=3,
        steps=6,
        **place.flat,
    )
    state = place.run("ditto", NUMBERS, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], w, rtol=1e-10)
    np.testing.assert_allclose(vectors(state.device, len(seen)), v, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.team is None


@pytest.mark.parametrize("name", ["samples_draws", "samples_draws_batches"])
def test_the_global_model_is_fedavg_to_the_bit(name):
    place = world(name)
    ditto = place.run("ditto", NUMBERS, 3, **STEPS)
    plain = place.run("fedavg", {"device_lr": 0.1}, 3, **STEPS)
    np.testing.assert_array_equal(vectors(ditto.server, 1), vectors(plain.server, 1))


def test_personal_models_end_at_the_prox_of_the_fixed_point():
    """v_n = argmin f_n(v) + λ/2 |v - x|² = (H_n + λ)⁻¹(h_n + λx), x by FedAvg."""
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], "samples")
    state = place.run("ditto", NUMBERS, 120, **STEPS)
    x = oracles_baselines.fixed_point(
        *oracles_baselines.fedavg_map(f, place.weight, 0.1, 6)
    )
    v = np.linalg.inv(f.hessian + 0.8 * np.eye(3)) @ (f.linear + 0.8 * x)[..., None]
    np.testing.assert_allclose(state.server, x, rtol=1e-10)
    np.testing.assert_allclose(state.device, v[..., 0], rtol=1e-10)


@pytest.mark.parametrize("name", ["draws", "samples_draws_batches"])
def test_absentees_keep_their_bits(name):
    place = world(name)
    acted = np.isin(np.arange(len(place.team)), place.acting(0))
    assert 0 < acted.sum() < len(acted)
    state = place.run("ditto", NUMBERS, 1, **STEPS)
    np.testing.assert_array_equal(np.asarray(state.cursor) > 0, acted)
    same = vectors(state.device, len(acted)) == vectors(place.params, 1)
    np.testing.assert_array_equal(same.all(axis=1), ~acted)


def test_it_cannot_do_without_personal_models():
    with pytest.raises(
        InputError, match=r"^--keep_personal=false leaves --algorithm=ditto nothing: "
    ):
        world("uniform").algorithm("ditto", keep_personal=False)


@pytest.mark.parametrize(
    ("name", "value"), [("device_lr", 0.0), ("personal_lr", 0.0), ("device_prox", -1.0)]
)
def test_numbers_are_checked(name, value):
    with pytest.raises(InputError, match=f"--hparam={name} must be"):
        HParams(**{name: value})
