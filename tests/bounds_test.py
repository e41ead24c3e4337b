"""Promises against exact maps of quadratics, and against the scalar family 1 - cos."""

import math

import numpy as np
import oracles
import pytest
from step_sizes import ENDS, GAMMA, HIGH, LAM, LOW, PULLS, mixing, settings

from permfl_jax import bounds
from permfl_jax.theory import Contractions, Curvature, Settings


def exact_levels(f):
    """Hessians of what each level minimises, from the matrices themselves."""
    eye = np.eye(f.linear.shape[1])
    envelope = [LAM * h @ np.linalg.inv(h + LAM * eye) for h in f.hessian]
    teams = [sum(f.p[j] * envelope[j] for j in f.members(i)) for i in range(len(f.q))]
    server = [GAMMA * a @ np.linalg.inv(a + GAMMA * eye) for a in teams]
    return {
        "device": [h + LAM * eye for h in f.hessian],
        "envelope": [*envelope, *teams],
        "team": [a + GAMMA * eye for a in teams],
        "server": [sum(q * a for q, a in zip(f.q, server, strict=True))],
    }


def test_moduli_hold_the_curvature_of_every_level():
    f = oracles.random_quadratics(0, (3, 4, 2), 5, LOW, HIGH, weighted=True)
    found = bounds.moduli(ENDS, **PULLS)
    for name, matrices in exact_levels(f).items():
        ends = getattr(found, name)
        for matrix in matrices:
            values = np.linalg.eigvals(matrix).real
            assert ends.low <= values.min() * (1 + 1e-12)
            assert values.max() <= ends.high * (1 + 1e-12)


def test_moduli_are_attained():
    f = oracles.random_quadratics(0, (1, 1), 4)
    f.hessian[:] = np.diag([LOW, 0.5, 1.0, HIGH])
    found = bounds.moduli(ENDS, **PULLS)
    for name, matrices in exact_levels(f).items():
        values = np.linalg.eigvalsh(matrices[0])
        assert getattr(found, name) == pytest.approx((values[0], values[-1]))


def test_limits_are_where_contractions_reach_one():
    found = bounds.limits(ENDS, **PULLS)
    at_limit = bounds.contractions(ENDS, settings(**found._asdict()))
    assert at_limit == pytest.approx((1.0, 1.0, 1.0))
    below = {name: 0.99 * value for name, value in found._asdict().items()}
    assert max(bounds.contractions(ENDS, settings(**below))) < 1
    flat = bounds.limits(Curvature(0.0, 0.0), device_prox=0.0, team_prox=0.0)
    assert flat == (math.inf, math.inf, math.inf)


def test_safe_step_sizes_never_overshoot():
    """Every level's factor is 1 - step · μ, as of a step that stops short."""
    safe, found = bounds.safe(ENDS, **PULLS), bounds.moduli(ENDS, **PULLS)
    rates = bounds.contractions(ENDS, settings())
    assert rates.device == pytest.approx(1 - safe.device_lr * found.device.low)
    assert rates.team == pytest.approx(1 - safe.team_lr * found.team.low)
    assert rates.server == pytest.approx(1 - safe.server_lr * found.server.low)


def trajectory(f, numbers, start, rounds):
    """x before each round, and the largest mean gradients that were met on the way."""
    eye = np.eye(len(start))
    envelope = [LAM * h @ np.linalg.inv(h + LAM * eye) for h in f.hessian]
    centre = [np.linalg.solve(h, v) for h, v in zip(f.hessian, f.linear, strict=True)]
    matrix, vector = oracles.round_map(f, **mixing(numbers))
    x, seen, largest = start, [start], [0.0, 0.0]
    for _ in range(rounds):
        for i in range(f.num_teams):
            rows, w = f.members(i), x
            for _ in range(numbers.team_steps):
                slopes = [envelope[j] @ (w - centre[j]) for j in rows]
                mean = np.mean([np.linalg.norm(s) for s in slopes])
                largest[1] = max(largest[1], mean)
                one = oracles.Quadratics(
                    f.hessian[rows], f.linear[rows], 0 * rows, f.p[rows], np.ones(1)
                )
                # One team round from w, x held: a round of one team with g = 1.
                once = mixing(numbers) | {"b": 0.0, "g": 1.0, "team_steps": 1}
                step, push = oracles.round_map(one, **once)
                b = numbers.team_lr * numbers.team_prox
                w = step @ w + push + b * (x - w)
        team_slopes = []
        for i in range(f.num_teams):
            a = sum(f.p[j] * envelope[j] for j in f.members(i))
            d = sum(f.p[j] * envelope[j] @ centre[j] for j in f.members(i))
            exact = np.linalg.solve(a + GAMMA * eye, d + GAMMA * x)
            team_slopes.append(np.linalg.norm(GAMMA * (x - exact)))
        largest[0] = max(largest[0], np.mean(team_slopes))
        x = matrix @ x + vector
        seen.append(x)
    return seen, largest


@pytest.mark.parametrize(
    ("k", "ell", "idle"), [(1, 1, 200), (3, 5, 150), (10, 20, 600)]
)
def test_the_distance_bound_holds_and_is_not_idle(k, ell, idle):
    """SPEC A.4: |x^T - x*| <= ρ_x^T R + (ρ_w^K G_F + ρ_θ^L G) / μ_F."""
    f = oracles.random_quadratics(3, (2, 3), 3, LOW, HIGH)
    numbers = settings(k, ell)
    best, _, _ = oracles.optimum(f, LAM, GAMMA)
    seen, (team, device) = trajectory(f, numbers, best + 2.0, 60)
    bias = bounds.floor(ENDS, numbers, team_gradient=team, device_gradient=device)
    rates = bounds.contractions(ENDS, numbers)
    distances = [np.linalg.norm(x - best) for x in seen]
    for t, distance in enumerate(distances):
        assert distance <= rates.server**t * distances[0] + bias.total + 1e-12
    assert bias.total < idle * distances[-1]
    # The same, from SPEC's own terms.
    mu_w, mu_x = 1 / (1 / LOW + 1 / LAM), 1 / (1 / LOW + 1 / LAM + 1 / GAMMA)
    rho = 1 - (LOW + LAM) / (HIGH + LAM), 1 - (mu_w + GAMMA) / (LAM + GAMMA)
    by_hand = rho[1] ** k * team / mu_x, rho[0] ** ell * device / mu_x
    assert bias == pytest.approx(by_hand)
    longer = bounds.floor(
        ENDS,
        numbers._replace(team_steps=2 * k, device_steps=2 * ell),
        team_gradient=team,
        device_gradient=device,
    )
    assert longer.team == pytest.approx(bias.team * rates.team**k)
    assert longer.device == pytest.approx(bias.device * rates.device**ell)


@pytest.mark.parametrize("level", ["device_lr", "team_lr", "server_lr"])
def test_the_floor_holds_for_step_sizes_that_overshoot(level):
    f = oracles.random_quadratics(3, (2, 3), 3, LOW, HIGH)
    limit = getattr(bounds.limits(ENDS, **PULLS), level)
    numbers = settings(3, 5, **{level: 0.9 * limit})
    assert getattr(settings(), level) < 0.9 * limit
    best, _, _ = oracles.optimum(f, LAM, GAMMA)
    seen, (team, device) = trajectory(f, numbers, best + 2.0, 60)
    bias = bounds.floor(ENDS, numbers, team_gradient=team, device_gradient=device)
    rates = bounds.contractions(ENDS, numbers)
    for t, x in enumerate(seen):
        pace = rates.server**t * np.linalg.norm(seen[0] - best)
        assert np.linalg.norm(x - best) <= pace + bias.total
    safe = settings(3, 5)
    calm = bounds.floor(ENDS, safe, team_gradient=team, device_gradient=device)
    assert bias.total > calm.total


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_where_x_rests_the_floor_does_not_hang_on_the_servers_step(share):
    """|e| / μ_F, and it holds at the fixed point of the round map."""
    f = oracles.random_quadratics(3, (2, 3), 3, LOW, HIGH)
    server_lr = share * bounds.limits(ENDS, **PULLS).server_lr
    numbers = settings(3, 5, server_lr=server_lr)
    seen, _ = trajectory(f, numbers, np.full(3, 2.0), 400)
    rest, (team, device) = trajectory(f, numbers, seen[-1], 1)
    np.testing.assert_allclose(rest[-1], seen[-1], atol=1e-9)
    found = bounds.floor_at_rest(
        ENDS, numbers, team_gradient=team, device_gradient=device
    )
    rates = bounds.contractions(ENDS, numbers)
    slope = rates.team**3 * team + rates.device**5 * device
    low = 1 / (1 / LOW + 1 / LAM + 1 / GAMMA)
    assert found.total == pytest.approx(slope / low)
    best, _, _ = oracles.optimum(f, LAM, GAMMA)
    assert 0 < np.linalg.norm(seen[-1] - best) <= found.total


def test_the_floor_of_a_flat_objective_is_infinite():
    flat = bounds.floor(
        Curvature(0.0, HIGH), settings(), team_gradient=1.0, device_gradient=1.0
    )
    assert flat.total == math.inf


def test_loops_are_the_first_that_are_enough():
    rates = Contractions(device=0.7, team=0.9, server=0.97)
    need = bounds.loops_below(1e-3, rates)
    assert rates.team**need.team_steps <= 1e-3 < rates.team ** (need.team_steps - 1)
    assert rates.device**need.device_steps <= 1e-3
    assert rates.device ** (need.device_steps - 1) > 1e-3
    rate = bounds.loops_at_rate(rates, 50)
    whole = rates.server**50
    assert rates.team**rate.team_steps <= whole < rates.team ** (rate.team_steps - 1)
    assert rates.device**rate.device_steps <= whole
    # Ω(T): twice the rounds, twice the loops.
    twice = bounds.loops_at_rate(rates, 5000)
    assert twice.team_steps == pytest.approx(100 * rate.team_steps, rel=0.05)


def test_loops_that_are_never_or_at_once_enough():
    still = Contractions(device=1.0, team=0.0, server=0.5)
    assert bounds.loops_at_rate(still, 10) == (1, None)
    assert bounds.loops_below(0.1, still) == (1, None)
    at_once = Contractions(device=0.5, team=0.5, server=0.0)
    assert bounds.loops_at_rate(at_once, 10) == (None, None)


def curvatures_of_envelope(lam, gamma):
    """F'' on a grid for f = 1 - cos, by minimising over grids of θ and w."""
    point = np.linspace(-4 * np.pi, 4 * np.pi, 8001)
    step = point[1] - point[0]
    middle = slice(2000, 6001, 10)
    inner = np.array(
        [(1 - np.cos(point) + lam / 2 * (point - w) ** 2).min() for w in point]
    )
    outer = np.array(
        [(inner + gamma / 2 * (point - x) ** 2).min() for x in point[middle]]
    )
    return np.diff(outer, 2) / (10 * step) ** 2


def test_the_curvature_of_a_nonconvex_envelope():
    """SPEC A.4: 1 - cos with λ = 2.5, γ = 5.5 stays inside [-2.39, 0.63]."""
    numbers = Settings(0.2, 0.1, 0.1, 2.5, 5.5, 10, 10)
    found = bounds.nonconvex(1.0, numbers)
    assert found.server == pytest.approx((-2.39, 0.63), abs=5e-3)
    seen = curvatures_of_envelope(2.5, 5.5)
    assert found.server.low < seen.min() < -1.9  # attained at the top of the cosine
    assert 0.55 < seen.max() < found.server.high + 0.05
    assert found.device == pytest.approx(1 - 0.2 * (2.5 - 1))
    assert found.team == pytest.approx(1 - 0.1 * (5.5 - 2.5 / 1.5))


def test_pulls_that_are_too_weak_leave_no_envelope():
    numbers = Settings(0.2, 0.1, 0.1, 2.0, 2.0, 10, 10)
    assert bounds.nonconvex(1.0, numbers) is None
    assert bounds.nonconvex(0.99, numbers) is not None


def test_the_gradient_bound_is_that_of_inexact_descent():
    """On x²/2, with errors chosen against us at every step."""
    lr, rounds, size = 0.5, 40, 0.1
    x, squares = 5.0, []
    for _ in range(rounds):
        squares.append(x**2)
        x -= lr * (x - size)  # e = -0.1, away from 0
    bound = bounds.gradient_bound(5.0**2 / 2, lr, rounds, size**2)
    assert np.mean(squares) <= bound
    assert bound == pytest.approx(2 * 12.5 / (0.5 * 40) + 0.01)
