"""SCAFFOLD against a plain loop, and its exact fixed point for any number of steps."""

import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.scaffold import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1, "server_lr": 0.9}


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    place = world(name)
    x, own, common, seen = oracles_baselines.scaffold_loop(
        place.gradient,
        place.start,
        alpha=0.1,
        server=0.9,
        rounds=3,
        steps=6,
        **place.flat,
    )
    state = place.run("scaffold", NUMBERS, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    got = vectors(state.extra.device, len(seen))
    np.testing.assert_allclose(got, own, rtol=1e-10, atol=1e-13)
    got = vectors(state.extra.server, 1)[0]
    np.testing.assert_allclose(got, common, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.device is None
    assert state.team is None


@pytest.mark.parametrize("steps", [1, 3, 25])
def test_ends_at_the_pooled_optimum_where_fedavg_does_not(steps):
    """Device controls end at the gradients there, and the server's at 0."""
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], "samples")
    optimum = oracles_baselines.pooled_optimum(f, place.weight)
    loops = {"team_steps": 2, "device_steps": steps}
    rates = {"device_lr": 0.1 if steps < 25 else 0.02}
    state = place.run("scaffold", rates, 250, **loops)
    np.testing.assert_allclose(state.server, optimum, rtol=1e-10)
    slopes = np.einsum("dij,j->di", f.hessian, optimum) - f.linear
    np.testing.assert_allclose(state.extra.device, slopes, atol=1e-9)
    np.testing.assert_allclose(state.extra.server, 0, atol=1e-9)
    biased = place.run("fedavg", rates, 250, **loops).server
    least = {1: 1e-3, 3: 1e-2, 25: 2e-2}[steps]
    assert np.linalg.norm(biased - optimum) > least * np.linalg.norm(optimum)


def test_ends_there_too_when_few_take_part():
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], "samples", (None, 2))
    state = place.run("scaffold", {"device_lr": 0.05}, 600, **STEPS)
    optimum = oracles_baselines.pooled_optimum(f, place.weight)
    np.testing.assert_allclose(state.server, optimum, rtol=1e-8)


@pytest.mark.parametrize("name", ["samples", "draws", "samples_draws_batches"])
def test_the_servers_control_stays_the_mean_of_the_devices(name):
    """Conserved, over all devices, also when few take part."""
    place = world(name)
    state = place.run("scaffold", NUMBERS, 5, **STEPS)
    own = vectors(state.extra.device, len(place.team))
    mean = np.average(own, axis=0, weights=place.weight)
    np.testing.assert_allclose(vectors(state.extra.server, 1)[0], mean, atol=1e-12)
    assert np.abs(mean).max() > 1e-3


@pytest.mark.parametrize("name", ["draws", "samples_draws_batches"])
def test_absentees_keep_their_bits(name):
    """A control that is not 0, too."""
    place = world(name)
    before = place.run("scaffold", NUMBERS, 2, **STEPS)
    after = place.run("scaffold", NUMBERS, 3, **STEPS)
    acted = np.isin(np.arange(len(place.team)), place.acting(2))
    rows = [vectors(s.extra.device, len(acted)) for s in (before, after)]
    np.testing.assert_array_equal((rows[0] == rows[1]).all(axis=1), ~acted)
    moved = np.asarray(after.cursor) != np.asarray(before.cursor)
    np.testing.assert_array_equal(moved, acted)
    assert rows[0][~acted].any()


def test_the_server_rate_scales_the_first_move():
    """Controls are 0 then: x + η_g (FedAvg(x) - x)."""
    place = world("samples")
    whole, half = (
        place.run("scaffold", {"device_lr": 0.1, "server_lr": rate}, 1, **STEPS).server
        for rate in (1.0, 0.5)
    )
    np.testing.assert_allclose(half, (place.start + whole) / 2, rtol=1e-12)


@pytest.mark.parametrize(("name", "value"), [("device_lr", 0.0), ("server_lr", -1.0)])
def test_numbers_are_checked(name, value):
    with pytest.raises(InputError, match=f"--hparam={name} must be"):
        HParams(**{name: value})
