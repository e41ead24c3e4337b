"""Drawn quadratics have the spectra, spreads and losses that were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import quadratics
from permfl_jax.errors import InputError
from permfl_jax.federation import team_sizes


def drawn(sizes=(2, 3), dim=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    curvature = quadratics.spectra(rng, sum(sizes), dim, 0.2, 3.0)
    return quadratics.draw(rng, sizes, curvature, **options)


def hessians(problem):
    """`[D, d, d]`, written out."""
    eye = np.eye(problem.turn.shape[1])
    turn = [eye - 2 * np.outer(u, u) for u in problem.turn]
    return np.stack(
        [q @ np.diag(h) @ q for q, h in zip(turn, problem.curvature, strict=True)]
    )


def test_spectra_reach_both_ends_in_every_device():
    found = quadratics.spectra(np.random.default_rng(0), 50, 6, 0.1, 10.0)
    assert (found.min(axis=1) == 0.1).all()
    assert (found.max(axis=1) == 10.0).all()
    inner = np.log(found[:, 1:-1])
    assert abs(inner.mean()) < 0.3  # even on a log scale, whose middle is 1


@pytest.mark.parametrize("turned", [True, False])
def test_hessians_have_the_spectra(turned):
    problem = drawn(turned=turned)
    for hessian, wanted in zip(hessians(problem), problem.curvature, strict=True):
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), wanted, rtol=1e-12)
    first, second = hessians(problem)[:2]
    assert np.allclose(first @ second, second @ first) != turned


def test_the_federation_has_these_losses_and_gradients():
    problem = drawn(counts=(1, 3, 2, 4, 1), noise=0.7)
    data = quadratics.federation_of(problem)
    assert team_sizes(data) == (2, 3)
    theta = jnp.asarray(np.random.default_rng(1).normal(size=4))
    for d, (start, count) in enumerate(
        zip(np.asarray(data.train.start), problem.count, strict=True)
    ):
        rows = slice(start, start + count)
        batch = jax.tree.map(lambda x, rows=rows: x[rows], data.train.pool)
        away = np.asarray(theta) - problem.samples[rows]
        wanted = 0.5 * np.einsum("bi,ij,bj->b", away, hessians(problem)[d], away)
        np.testing.assert_allclose(quadratics.loss(theta, batch), wanted, rtol=1e-12)
        slope = jax.grad(lambda t, b=batch: quadratics.loss(t, b).mean())(theta)
        exact = hessians(problem)[d] @ (np.asarray(theta) - problem.centre[d])
        np.testing.assert_allclose(slope, exact, rtol=1e-10)


def test_spreads_are_those_of_the_random_effects():
    sizes, dim = (20,) * 100, 50
    curvature = np.ones(dim)
    problem = quadratics.draw(
        np.random.default_rng(0),
        sizes,
        curvature,
        team_spread=3.0,
        device_spread=0.5,
        noise=0.8,
        counts=4,
        turned=False,
    )
    truth = problem.truth.reshape(100, 20, dim)
    assert truth.std(axis=1, ddof=1).mean() == pytest.approx(0.5, rel=0.02)
    between = truth.mean(axis=1).std(ddof=1)
    assert between == pytest.approx(np.sqrt(9 + 0.25 / 20), rel=0.03)
    missed = problem.centre - problem.truth
    assert missed.std() == pytest.approx(0.8 / np.sqrt(4), rel=0.02)


def test_weights_sum_to_one_and_follow_the_samples():
    problem = drawn(counts=(1, 3, 2, 4, 2), weights="samples")
    np.testing.assert_allclose(
        problem.device_weight, [1 / 4, 3 / 4, 2 / 8, 4 / 8, 2 / 8]
    )
    np.testing.assert_allclose(problem.team_weight, [4 / 12, 8 / 12])
    even = drawn(counts=(1, 3, 2, 4, 2))
    np.testing.assert_allclose(even.device_weight, [1 / 2] * 2 + [1 / 3] * 3)
    np.testing.assert_allclose(even.team_weight, [1 / 2, 1 / 2])


def test_the_seed_decides_everything():
    for a, b in zip(drawn(seed=3), drawn(seed=3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(drawn(seed=3).truth, drawn(seed=4).truth)


def test_mistakes_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"low must be above 0"):
        quadratics.spectra(rng, 2, 3, 0.0, 1.0)
    with pytest.raises(InputError, match="2 coordinates"):
        quadratics.spectra(rng, 2, 1, 0.5, 1.0)
    with pytest.raises(InputError, match="uniform, samples; got even"):
        quadratics.draw(rng, (2,), np.ones(3), weights="even")
