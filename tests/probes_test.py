"""What rules of formation are shown is what training by hand gives."""

import jax
import numpy as np
import pytest
from federations import classes_federation, mclr_loss, mclr_params

from permfl_jax import federation as federations
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.probes import Probe
from permfl_jax.schedule import Schedule

COUNTS, STEPS, LR = (3, 5, 4, 6), 4, 0.1
SCHEDULE = Schedule(team_steps=3, device_steps=STEPS, batch_size=None)


def probe(rounds=None, lr=LR):
    return Probe(
        mclr_loss, SCHEDULE, mclr_params(0), jax.random.key(0), lr, rounds=rounds
    )


def flat(params):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def by_hand(params, device, steps=STEPS):
    """Gradient descent on all samples."""

    def mean(params):
        return mclr_loss(params, device).mean()

    for _ in range(steps):
        params = jax.tree.map(lambda p, g: p - LR * g, params, jax.grad(mean)(params))
    return params


@pytest.fixture(scope="module")
def built():
    return classes_federation(0, COUNTS, [0, 0, 1, 1])


def test_updates_are_those_of_gradient_descent(built):
    federation, devices = built
    seen = probe().look("updates", federation)
    expected = [
        flat(by_hand(mclr_params(0), d)) - flat(mclr_params(0)) for d in devices
    ]
    np.testing.assert_allclose(seen.rows, expected, rtol=1e-9)
    model = 8 * len(expected[0])  # float64
    assert (seen.up, seen.down) == (4 * model, 4 * model)


def test_later_updates_start_from_the_mean_of_earlier_models(built):
    federation, devices = built
    seen = probe(rounds=2).look("updates", federation)
    once = [by_hand(mclr_params(0), d) for d in devices]
    server = jax.tree.map(lambda *x: sum(x) / len(x), *once)
    expected = [flat(by_hand(server, d)) - flat(server) for d in devices]
    np.testing.assert_allclose(seen.rows, expected, rtol=1e-8)
    assert seen.up == 2 * 4 * 8 * len(expected[0])


def test_losses_are_lower_where_models_were_trained_on_like_devices():
    """Two kinds of devices with opposite labels: each kind likes a model of its own."""
    rng = np.random.default_rng(0)
    truth = np.array([0, 1, 1, 0, 1, 0])
    devices = []
    for kind in truth:
        x = rng.normal(size=(30, 5))
        devices.append({"x": x, "y": ((x[:, 0] > 0) ^ bool(kind)).astype(np.int32)})
    federation = federations.from_arrays(devices, [0, 0, 0, 1, 1, 1])
    look = probe(rounds=30, lr=0.5)
    seen = look.look("losses", federation)
    choice = seen.rows.argmin(axis=1)
    assert len(set(zip(choice.tolist(), truth.tolist(), strict=True))) == 2
    model = 8 * flat(mclr_params(0)).size
    assert seen.down == 6 * 31 * 2 * model
    assert seen.up == 6 * (30 * model + 4 * 2)


def test_the_teams_of_the_moment_do_not_count(built):
    federation, devices = built
    mixed = federations.from_arrays(devices, [0, 1, 0, 1])
    place = np.argsort(np.asarray(mixed.identity))
    ours = probe().look("updates", federation).rows
    theirs = probe().look("updates", mixed).rows[place]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_divergence_names_the_flag(built):
    def steep(params, batch):
        squares = sum((x**2).sum() for x in jax.tree.leaves(params))
        return mclr_loss(params, batch) + squares

    too_far = probe(lr=1e30, rounds=3)._replace(loss_fn=steep)
    with pytest.raises(
        DivergenceError, match=r"--formation_lr=1e\+30 made the models of 4"
    ):
        too_far.look("updates", built[0])


def test_models_that_do_not_fit_are_refused(built, monkeypatch):
    monkeypatch.setattr("permfl_jax.hosts.memory", lambda: 1000.0)
    with pytest.raises(InputError, match="compares the models of 4 devices"):
        probe().look("updates", built[0])
