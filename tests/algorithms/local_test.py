"""Local-only training is SGD on each device, whoever else there is."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from federations import quadratic_federation, quadratic_loss

from permfl_jax import runner
from permfl_jax.algorithms.local import HParams, local
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule


def run(f, sizes, rounds, teams_per_round=None):
    schedule = Schedule(team_steps=3, device_steps=4, batch_size=None)
    algorithm = local(quadratic_loss, schedule, Sampler(sizes, teams_per_round))
    federation = quadratic_federation(f)
    state = runner.start(algorithm, jnp.ones(3), federation)
    hparams = HParams(device_lr=0.2).traced()
    *_, (state, _) = runner.run(
        algorithm, jax.random.key(0), hparams, state, federation, rounds
    )
    return state


def test_equals_gradient_descent_on_each_device():
    f = oracles.random_quadratics(0, (2, 3), 3)
    state = run(f, (2, 3), 5)
    for d, theta in enumerate(np.asarray(state.device)):
        centre = np.linalg.solve(f.hessian[d], f.linear[d])
        left = np.linalg.matrix_power(np.eye(3) - 0.2 * f.hessian[d], 5 * 3 * 4)
        np.testing.assert_allclose(theta, centre + left @ (1 - centre), rtol=1e-10)
    assert state.team is None
    assert state.server is None


def test_absentees_stand_still():
    f = oracles.random_quadratics(0, (2, 3), 3)
    state = run(f, (2, 3), 1, teams_per_round=1)
    moved = (np.asarray(state.device) != 1).any(axis=1)
    np.testing.assert_array_equal(moved, np.asarray(state.cursor) == 12)
    assert sorted({tuple(moved[:2]), tuple(moved[2:])}) in (
        [(False, False), (True, True, True)],
        [(False, False, False), (True, True)],
    )
