"""The package's closed forms against those of the tests, and against the algorithm."""

import numpy as np
import oracles
import pytest
from federations import gains, run_permfl

from permfl_jax import closed_forms, quadratics
from permfl_jax.errors import InputError
from permfl_jax.theory import Settings

SETTINGS = Settings(
    device_lr=0.1,
    team_lr=0.2,
    server_lr=0.7,
    device_prox=0.8,
    team_prox=1.5,
    team_steps=3,
    device_steps=4,
)
LOOPS = [(1, 1), (1, 5), (4, 1), (3, 7)]


def drawn(sizes=(2, 4, 1), turned=True, weights="samples"):
    rng = np.random.default_rng(7)
    counts = rng.integers(1, 5, sum(sizes))
    curvature = quadratics.spectra(rng, sum(sizes), 4, 0.2, 3.0)
    return quadratics.draw(
        rng, sizes, curvature, counts=counts, noise=0.5, turned=turned, weights=weights
    )


def written_out(problem):
    """The same federation as the tests' own oracle knows it."""
    eye = np.eye(problem.turn.shape[1])
    turn = [eye - 2 * np.outer(u, u) for u in problem.turn]
    hessian = np.stack(
        [q @ np.diag(h) @ q for q, h in zip(turn, problem.curvature, strict=True)]
    )
    linear = np.einsum("dij,dj->di", hessian, problem.centre)
    return oracles.Quadratics(
        hessian, linear, problem.team, problem.device_weight, problem.team_weight
    )


def mixing(settings):
    """α, λ, a, b, g."""
    return (
        settings.device_lr,
        settings.device_prox,
        settings.team_lr * settings.device_prox,
        settings.team_lr * settings.team_prox,
        settings.server_lr * settings.team_prox,
    )


@pytest.mark.parametrize("weights", ["uniform", "samples"])
@pytest.mark.parametrize("turned", [True, False])
def test_the_optimum_is_that_of_the_oracle(turned, weights):
    problem = drawn(turned=turned, weights=weights)
    found = closed_forms.optimum(problem, 0.8, 1.5)
    for ours, theirs in zip(
        found, oracles.optimum(written_out(problem), 0.8, 1.5), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-11)


def test_the_gradient_vanishes_at_the_optimum_and_is_that_of_the_envelope():
    problem = drawn()
    gradient = closed_forms.objective(problem, 0.8, 1.5)
    server = closed_forms.optimum(problem, 0.8, 1.5).server
    np.testing.assert_allclose(gradient(server), 0, atol=1e-12)
    # ∇F(x) = γ Σ q (x - w*(x)); w* by long and safe loops.
    x = np.random.default_rng(3).normal(size=4)
    long = SETTINGS._replace(team_steps=400, device_steps=400)
    team = closed_forms.after_round(problem, long, x).team
    wanted = 1.5 * (x - problem.team_weight @ team)
    np.testing.assert_allclose(gradient(x), wanted, atol=1e-10)


@pytest.mark.parametrize(("k", "ell"), LOOPS)
@pytest.mark.parametrize("turned", [True, False])
def test_the_map_of_a_round_is_that_of_the_oracle(turned, k, ell):
    problem = drawn(turned=turned)
    settings = SETTINGS._replace(team_steps=k, device_steps=ell)
    ours = closed_forms.round_map(problem, settings)
    matrix, offset = oracles.round_map(written_out(problem), *mixing(settings), k, ell)
    np.testing.assert_allclose(ours.matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(ours.offset, offset, atol=1e-12)
    assert ours.radius == pytest.approx(max(abs(np.linalg.eigvals(matrix))), rel=1e-12)
    fixed = ours.fixed_point
    np.testing.assert_allclose(matrix @ fixed + offset, fixed, atol=1e-11)


@pytest.mark.parametrize(("k", "ell"), LOOPS)
def test_the_algorithm_does_what_the_closed_form_says(k, ell):
    problem = drawn()
    settings = SETTINGS._replace(team_steps=k, device_steps=ell)
    start = np.random.default_rng(1).normal(size=4)
    state = run_permfl(
        quadratics.loss,
        quadratics.federation_of(problem),
        start,
        gains(*mixing(settings)),
        3,
        team_steps=k,
        device_steps=ell,
        weights="samples",
    )
    x = start
    for _ in range(3):
        tiers = closed_forms.after_round(problem, settings, x)
        x = tiers.server
    np.testing.assert_allclose(state.server, tiers.server, atol=1e-12)
    np.testing.assert_allclose(state.team, tiers.team, atol=1e-12)
    np.testing.assert_allclose(state.device, tiers.device, atol=1e-12)


def test_long_loops_end_at_the_optimum():
    problem = drawn()
    long = SETTINGS._replace(team_steps=300, device_steps=300)
    fixed = closed_forms.round_map(problem, long).fixed_point
    exact = closed_forms.optimum(problem, 0.8, 1.5)
    for ours, theirs in zip(
        closed_forms.after_round(problem, long, fixed), exact, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_equal_hessians_have_no_bias_whatever_the_loops():
    """SPEC A.5, 2: x* is the mean of the teams' mean centres for every K and L."""
    rng = np.random.default_rng(0)
    problem = quadratics.draw(rng, (3, 2), np.array([0.3, 1.0, 2.0]), turned=False)
    means = [problem.centre[problem.team == i].mean(axis=0) for i in (0, 1)]
    found = closed_forms.round_map(
        problem, SETTINGS._replace(team_steps=1, device_steps=1)
    )
    np.testing.assert_allclose(found.fixed_point, np.mean(means, axis=0), atol=1e-12)


def test_ten_thousand_devices_need_no_matrix_each():
    """10^4 matrices of 30 coordinates would be 72 MB; time tells of a slip, too."""
    rng = np.random.default_rng(0)
    sizes, dim = (1000,) * 10, 30
    curvature = quadratics.spectra(rng, 10_000, dim, 0.1, 10.0)
    problem = quadratics.draw(rng, sizes, curvature)
    numbers = sum(getattr(problem, name).size for name in problem._fields)
    assert numbers < 6 * 10_000 * dim
    found = closed_forms.optimum(problem, 1.0, 1.0)
    mean = problem.device_weight @ (found.device / 10)
    np.testing.assert_allclose(mean, found.server, atol=1e-9)  # SPEC A.5, 1


def test_a_flat_objective_is_refused():
    with pytest.raises(InputError, match="device_prox must be above 0"):
        closed_forms.optimum(drawn(), 0.0, 1.0)
    with pytest.raises(InputError, match="team_prox must be above 0"):
        closed_forms.objective(drawn(), 1.0, 0.0)


def sizes_met(f, problem, x):
    """G_F at x, and Σ_j p |∇f~_ij(w_i)| of each team before each team round."""
    eye, lam, gamma = np.eye(4), SETTINGS.device_prox, SETTINGS.team_prox
    lifted = [lam * h @ np.linalg.inv(h + lam * eye) for h in f.hessian]
    names = ("alpha", "lam", "a", "b", "g")
    met = np.zeros((SETTINGS.team_steps, f.num_teams))
    for k in range(SETTINGS.team_steps):
        _, w, _, _ = oracles.permfl_loop(
            lambda j, step, point: f.hessian[j] @ point - f.linear[j],
            x,
            f.team,
            **dict(zip(names, mixing(SETTINGS), strict=True)),
            rounds=1,
            team_steps=k,
            device_steps=SETTINGS.device_steps,
            p=f.p,
            q=f.q,
        )
        for j, i in enumerate(f.team):
            slope = lifted[j] @ (w[i] - problem.centre[j])
            met[k, i] += f.p[j] * np.linalg.norm(slope)
    team = 0.0
    for i, q in enumerate(f.q):
        a = sum(f.p[j] * lifted[j] for j in f.members(i))
        d = sum(f.p[j] * lifted[j] @ problem.centre[j] for j in f.members(i))
        exact = np.linalg.solve(a + gamma * eye, d + gamma * x)
        team += q * gamma * np.linalg.norm(x - exact)
    return team, met


@pytest.mark.parametrize("weights", ["uniform", "samples"])
def test_gradient_sizes_are_those_met_in_a_round(weights):
    problem = drawn(weights=weights)
    f = written_out(problem)
    later = False
    for x in problem.centre:
        team, met = sizes_met(f, problem, x)
        found = closed_forms.gradient_sizes(problem, SETTINGS, x)
        assert found.team == pytest.approx(team, rel=1e-10)
        assert found.device == pytest.approx(f.q @ met.max(axis=0), rel=1e-10)
        later |= bool((met.argmax(axis=0) > 0).any())
    assert later  # somewhere the largest is not the first
