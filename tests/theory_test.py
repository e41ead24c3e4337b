"""The formulas against explicit envelopes, matrices and loops."""

import math

import numpy as np
import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from permfl_jax import theory

PAPER = {
    "device_lr": 0.01,
    "team_lr": 0.03,
    "server_lr": 0.6,
    "device_prox": 0.5,
    "team_prox": 1.5,
}
positive = st.floats(1e-3, 1e3)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("pulls", [(), (0.5,), (0.5, 1.5), (20.0, 0.3)])
def test_series_is_the_curvature_of_the_nested_envelope(curvature, pulls):
    # min over y of h/2 y² + λ/2 (y - x)² is the value of a parabola in x; nest it.
    def envelope(x, h, pulls):
        if not pulls:
            return h / 2 * x**2
        inner, outer = pulls[:-1], pulls[-1]
        # The inner problem is a parabola in y of curvature k: read k off, and solve.
        k = 2 * envelope(1.0, h, inner)
        y = outer * x / (k + outer)
        return envelope(y, h, inner) + outer / 2 * (y - x) ** 2

    second = envelope(1.0, curvature, pulls) + envelope(-1.0, curvature, pulls)
    assert theory.series(curvature, *pulls) == pytest.approx(second, rel=1e-12)


def test_series_equals_a_numeric_minimum():
    h, lam, gamma = 2.0, 0.7, 1.3
    grid = np.linspace(0, 1, 4001)  # the minimisers lie between 0 and x = 1

    def least(x, inner, pull):
        return (inner + pull / 2 * (grid - x) ** 2).min()

    team = np.array([least(w, h / 2 * grid**2, lam) for w in grid])
    server = 2 * least(1.0, team, gamma)
    assert theory.series(h, lam, gamma) == pytest.approx(server, rel=1e-6)


def test_series_with_a_missing_link_is_flat():
    assert theory.series(0, 1, 1) == 0
    assert theory.series(3, 0, 1) == 0
    assert theory.series(3, 1, 0) == 0


@given(h=positive, lam=positive, gamma=positive)
def test_series_is_below_each_of_its_terms_and_grows_with_each(h, lam, gamma):
    value = theory.series(h, lam, gamma)
    assert 0 < value < min(h, lam, gamma)
    assert theory.series(2 * h, lam, gamma) > value
    assert theory.series(lam, gamma, h) == pytest.approx(value, rel=1e-12)


def quadratics(low, high):
    """One team of two devices with the same Hessian, whose spectrum has these ends."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    hessian = basis * np.array([low, (low + high) / 2, high]) @ basis.T
    return oracles.Quadratics(
        np.stack([hessian, hessian]),
        np.ones((2, 3)),
        np.zeros(2, int),
        np.full(2, 0.5),
        np.ones(1),
    )


def radius(matrix):
    return max(abs(np.linalg.eigvals(matrix)))


@pytest.mark.parametrize("low", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("speed", [0.3, 1.0, 1.7, 2.4])
def test_contractions_are_spectral_radii(low, speed):
    high, lam, gamma = 5.0, 0.8, 1.5
    f = quadratics(low, high)
    eye, hessian = np.eye(3), f.hessian[0]
    # Step sizes that are safe for speed = 1 and unstable for 2.4.
    alpha = speed / (high + lam)
    eta = speed / (theory.series(high, lam) + gamma)
    beta = speed / theory.series(high, lam, gamma)
    rates = theory.contractions(
        theory.Curvature(low, high),
        device_lr=alpha,
        team_lr=eta,
        server_lr=beta,
        device_prox=lam,
        team_prox=gamma,
    )
    assert rates.device == pytest.approx(radius(eye - alpha * (hessian + lam * eye)))
    # A team's exact step: its device sits at (H + λ)^-1 (h + λ w).
    solve = np.linalg.inv(hessian + lam * eye)
    team = (1 - eta * lam - eta * gamma) * eye + eta * lam * lam * solve
    assert rates.team == pytest.approx(radius(team))
    # The server, with inner loops that are long and safe.
    matrix, _ = oracles.round_map(
        f,
        0.9 / (high + lam),
        lam,
        0.3 * lam / (lam + gamma),
        0.3 * gamma / (lam + gamma),
        beta * gamma,
        team_steps=400,
        device_steps=400,
    )
    assert rates.server == pytest.approx(radius(matrix), rel=1e-9)
    assert (max(rates) < 1) == (speed < 2 and low > 0) or low == 0


def test_over_relaxation_is_stable():
    """SPEC A.4: βγ > 1 is no fault while βL_F < 2, with main.py's defaults."""
    numbers = PAPER | {"device_prox": 5.0, "team_prox": 5.0, "server_lr": 0.99}
    assert 1 - numbers["server_lr"] * numbers["team_prox"] == pytest.approx(-3.95)
    stable = theory.contractions(theory.Curvature(0.01, 10.4), **numbers)
    unstable = theory.contractions(theory.Curvature(0.01, 10.6), **numbers)
    assert stable.server < 1 < unstable.server  # SPEC: only for L > 10.5
    # And with K = 10, L = 20 the round map of a spectrum [0.01, 8] is far inside.
    matrix, _ = oracles.round_map(
        quadratics(0.01, 8.0),
        0.01,
        5.0,
        0.03 * 5,
        0.03 * 5,
        0.99 * 5,
        team_steps=10,
        device_steps=20,
    )
    values = np.linalg.eigvals(matrix).real
    assert -1 < values.min() < 0


@pytest.mark.parametrize(
    "numbers",
    [
        PAPER,
        PAPER | {"device_lr": 0.3, "team_lr": 0.4, "server_lr": 3.0},
        PAPER | {"device_prox": 0.0},
        PAPER | {"team_prox": 0.0},
    ],
)
@pytest.mark.parametrize("curvature", [0.0, 0.1, 1.0, 5.0])
@pytest.mark.parametrize(("k", "ell"), [(1, 1), (1, 4), (10, 20)])
def test_progress_is_the_loop(numbers, curvature, k, ell):
    centre, start = np.array([[2.0], [5.0], [-1.0], [8.0]]), np.array([0.5])
    team = np.array([0, 0, 1, 1])
    x, w, theta, _ = oracles.permfl_loop(
        lambda j, step, point: curvature * (point - centre[j]),
        start,
        team,
        alpha=numbers["device_lr"],
        lam=numbers["device_prox"],
        a=numbers["team_lr"] * numbers["device_prox"],
        b=numbers["team_lr"] * numbers["team_prox"],
        g=numbers["server_lr"] * numbers["team_prox"],
        rounds=1,
        team_steps=k,
        device_steps=ell,
    )
    moved = theory.progress(curvature, **numbers, team_steps=k, device_steps=ell)
    mean = centre.mean()
    assert (x - start)[0] == pytest.approx(moved.server * (mean - start[0]), abs=1e-12)
    for i in (0, 1):
        target = centre[team == i].mean() - start[0]
        assert w[i, 0] - start[0] == pytest.approx(moved.team * target, abs=1e-12)
    if k == 1:  # the devices started at x
        np.testing.assert_allclose(
            theta - start, moved.device * (centre - start), atol=1e-12
        )


def test_progress_when_nothing_pulls_at_all():
    numbers = PAPER | {"device_prox": 0.0, "team_prox": 0.0}
    moved = theory.progress(0.0, **numbers, team_steps=3, device_steps=3)
    assert moved == theory.Progress(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("curvature", "gain"), [(0.1, "0.002"), (1.0, "0.019"), (10.0, "0.089")]
)
def test_the_papers_global_gain(curvature, gain):
    """SPEC A.4: how little the global model moves with the paper's numbers."""
    moved = theory.progress(curvature, **PAPER, team_steps=10, device_steps=20)
    assert f"{moved.server:.3f}" == gain


def test_long_loops_progress_as_the_exact_contraction_says():
    curvature = 2.0
    safe = PAPER | {"device_lr": 0.3, "team_lr": 0.4}
    moved = theory.progress(curvature, **safe, team_steps=200, device_steps=200)
    curvature_of_f = theory.series(curvature, safe["device_prox"], safe["team_prox"])
    assert moved.server == pytest.approx(safe["server_lr"] * curvature_of_f, rel=1e-12)


@settings(derandomize=True, database=None)
@given(shrink=st.floats(1e-6, 0.999), factor=st.floats(1e-3, 0.999))
@example(shrink=0.125, factor=0.5)
@example(shrink=0.001, factor=0.1)
@example(shrink=0.5, factor=0.5)
def test_steps_to_is_the_first_step_that_is_enough(shrink, factor):
    steps = theory.steps_to(shrink, factor)
    slack = 1 + 1e-9
    assert factor**steps <= shrink * slack
    # One step fewer is not enough, up to rounding where it is exactly enough.
    assert steps == 1 or factor ** (steps - 1) > shrink / slack


def test_steps_to_at_the_edges():
    assert theory.steps_to(0.1, 1.0) is None
    assert theory.steps_to(0.1, 1.5) is None
    assert theory.steps_to(0.1, 0.0) == 1
    assert theory.steps_to(1.0, 0.5) == 1
    assert theory.steps_to(0.01, math.sqrt(0.1)) == 4


def posterior_error(lam, gamma, tau, device_spread, team_spread, devices):
    """Mean square of θ* - c for one curvature h = 1: exact, by linear algebra.

    θ* is linear in the devices' own optima; those are Gaussian about the truth.
    """
    teams = 6
    count = teams * devices
    team = np.repeat(np.arange(teams), devices)
    f = oracles.Quadratics(
        np.ones((count, 1, 1)),
        np.zeros((count, 1)),
        team,
        np.full(count, 1 / devices),
        np.full(teams, 1 / teams),
    )
    gain = np.zeros((count, count))
    for j in range(count):
        f.linear[:] = 0
        f.linear[j] = 1
        gain[:, j] = oracles.optimum(f, lam, gamma)[2][:, 0]
    truth = team_spread**2 * (team[:, None] == team) + device_spread**2 * np.eye(count)
    miss = gain - np.eye(count)
    return np.trace(miss @ truth @ miss.T + tau**2 * gain @ gain.T) / count


@pytest.mark.parametrize("spreads", [(1.0, 2.0), (0.5, 2.0), (1.0, 0.5)])
def test_best_pulls_have_the_least_risk(spreads):
    """SPEC A.6."""
    device_spread, team_spread = spreads
    tau, devices = 1.0, 5
    best = theory.best_pulls(
        1.0,
        noise=tau,
        device_spread=device_spread,
        team_spread=team_spread,
        devices_per_team=devices,
    )

    def risk(lam, gamma):
        return posterior_error(lam, gamma, tau, device_spread, team_spread, devices)

    least = risk(*best)
    for scale in (0.8, 1.25):
        assert risk(best.device_prox * scale, best.team_prox) > least
        assert risk(best.device_prox, best.team_prox * scale) > least


def test_best_pulls_without_spread_tie_all_together():
    found = theory.best_pulls(
        1.0, noise=1.0, device_spread=0.0, team_spread=0.0, devices_per_team=3
    )
    assert found == (math.inf, math.inf)
