"""Best estimates against one dense system, and against exact designs' closed form."""

import jax
import numpy as np
import pytest

from experiments.studies import least_squares
from permfl_jax import random_effects

SIZES = (3, 1, 4)


def drawn(samples=12, **changes):
    spreads = {"team_spread": 2.0, "device_spread": 0.5, "error": 1.5} | changes
    rng = np.random.default_rng(0)
    return least_squares.draw(rng, SIZES, np.geomspace(0.1, 3, 4), samples, **spreads)


def dense(problem):
    """All θ, w and x of the posterior in one system of springs."""
    size, _, dim = problem.features.shape
    nodes, eye = size + len(SIZES) + 1, np.eye(dim)
    matrix, vector = np.zeros((nodes, dim, nodes, dim)), np.zeros((nodes, dim))
    for j, u in enumerate(problem.features):
        matrix[j, :, j] += u.T @ u / problem.error**2
        vector[j] += u.T @ problem.target[j] / problem.error**2
    links = [(j, size + i, problem.device_spread) for j, i in enumerate(problem.team)]
    links += [(size + i, nodes - 1, problem.team_spread) for i in range(len(SIZES))]
    for one, other, spread in links:
        for a, b, sign in ((one, one, 1), (other, other, 1), (one, other, -1)):
            matrix[a, :, b] += sign * eye / spread**2
        matrix[other, :, one] -= eye / spread**2
    flat = matrix.reshape(nodes * dim, -1)
    return np.linalg.solve(flat, vector.ravel()).reshape(nodes, dim)[:size]


# With 2 samples no device can be solved on its own.
@pytest.mark.parametrize("samples", [2, 12])
def test_best_is_the_solution_of_the_dense_system(samples):
    problem = drawn(samples)
    np.testing.assert_allclose(least_squares.best(problem), dense(problem), rtol=1e-8)


def test_orthonormal_designs_are_random_effects():
    problem = drawn()
    q, _ = np.linalg.qr(problem.features)
    u = q * np.sqrt(problem.features.shape[1])  # so that uᵀu/n is the identity
    problem = problem._replace(features=u)
    centre = np.einsum("jna,jn->ja", u, problem.target) / u.shape[1]
    where = random_effects.world(SIZES, 2.0, 0.5, 1.5 / np.sqrt(u.shape[1]))
    wanted = random_effects.best(where) @ centre
    np.testing.assert_allclose(least_squares.best(problem), wanted, rtol=1e-10)


def test_devices_hold_their_own_samples():
    problem = drawn()
    federation = least_squares.federation_of(problem)
    train = federation.train
    start, count = int(train.start[5]), int(train.count[5])
    batch = {k: v[start : start + count] for k, v in train.pool.items()}
    theta = np.ones(4)
    away = problem.features[5] @ theta - problem.target[5]
    np.testing.assert_allclose(least_squares.loss(theta, batch), away**2 / 2)
    slope = jax.grad(lambda point: least_squares.loss(point, batch).mean())(theta)
    np.testing.assert_allclose(slope, problem.features[5].T @ away / count)


def test_spreads_and_errors_are_those_asked_for():
    rng = np.random.default_rng(1)
    problem = least_squares.draw(
        *(rng, (200,) * 20, np.array([0.5, 2.0]), 6),
        team_spread=0.0,
        device_spread=3.0,
        error=0.7,
    )
    assert problem.truth.std() == pytest.approx(3, rel=0.03)
    fitted = np.einsum("jnd,jd->jn", problem.features, problem.truth)
    assert (problem.target - fitted).std() == pytest.approx(0.7, rel=0.02)
    seen = np.cov(problem.features.reshape(-1, 2).T)
    np.testing.assert_allclose(np.linalg.eigvalsh(seen), [0.5, 2.0], rtol=0.03)
