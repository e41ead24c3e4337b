"""1 - cos: envelopes by brute force, and bounds that hold."""

import numpy as np
import pytest

from experiments import cosine_family, nonconvex_rates
from permfl_jax import data

PULLS = nonconvex_rates.PULLS
FAMILY = cosine_family.draw(0, 2, 2, 3)


def brute_force(centre, x):
    """F(x) of one coordinate, on grids; `centre` `[M, N]`."""
    grid = np.linspace(-2 * np.pi, 2 * np.pi, 4001)
    lam, gamma = PULLS["device_prox"], PULLS["team_prox"]
    total = 0.0
    for team in centre:
        value = 0.0
        for c in team:
            pull = lam / 2 * (grid[:, None] - grid[None]) ** 2
            value = value + (1 - np.cos(grid - c)[:, None] + pull).min(axis=0)
        total += (value / len(team) + gamma / 2 * (grid - x) ** 2).min()
    return total / len(centre)


def test_the_objective_is_the_nested_minimum():
    x = np.array([0.4, -2.0, 3.0])
    found = cosine_family.value(FAMILY, x, **PULLS)
    wanted = [brute_force(FAMILY.centre[:, :, k], x[k]) for k in range(3)]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_models_solve_their_equations_everywhere():
    x = np.linspace(-np.pi, np.pi, 101)[:, None] + np.zeros(3)
    team = cosine_family.team_models(FAMILY, x, **PULLS)
    theta = cosine_family.device_models(FAMILY, team, PULLS["device_prox"])
    pull = PULLS["device_prox"] * (theta - team[..., None, :])
    np.testing.assert_allclose(np.sin(theta - FAMILY.centre) + pull, 0, atol=1e-13)
    left = -pull.mean(axis=-2) + PULLS["team_prox"] * (team - x[:, None])
    np.testing.assert_allclose(left, 0, atol=1e-13)


def test_the_gradient_is_the_slope_of_the_objective():
    x, step = np.array([0.4, -2.0, 3.0]), 1e-5
    ends = [cosine_family.value(FAMILY, x + s, **PULLS) for s in (step, -step)]
    slope = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(
        cosine_family.gradient(FAMILY, x, **PULLS), slope, atol=1e-8
    )


def test_nothing_is_below_the_lowest_value():
    grid = np.linspace(-np.pi, np.pi, 3001)[:, None] + np.zeros(3)
    least = cosine_family.value(FAMILY, grid, **PULLS).min(axis=0).sum()
    lowest = cosine_family.lowest(FAMILY, **PULLS)
    assert lowest <= least
    assert lowest == pytest.approx(least, abs=1e-5)


def test_the_bound_holds_and_the_loops_decide_its_error(monkeypatch):
    monkeypatch.setattr(nonconvex_rates, "ROUNDS", 60)
    rows = nonconvex_rates.cosine_rows((0, 1), True)
    assert all(row["holds"] for row in rows)
    shares = [row["largest_share_of_bound"]["mean"] for row in rows]
    assert all(0.1 < share < 1 for share in shares)
    errors = [row["error_square"]["mean"] for row in rows if row["sweep"] == "loops"]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    # β a quarter as large: the bound four times as high, but for the error.
    long, beta = (r for r in rows if r["sweep"] == "beta" or "K=10" in r["cell"])
    assert beta["bound"]["mean"] == pytest.approx(4 * long["bound"]["mean"], rel=0.01)


def test_a_network_learns_and_long_loops_agree(monkeypatch):
    monkeypatch.setattr(nonconvex_rates, "_EACH", 10)
    row = nonconvex_rates.network_row("digits", data.SourceOptions(), (0, 1), True)
    assert row["slope"]["mean"] < -0.3
    inexact, exact = row["last_square"]["mean"], row["long_loops_square"]["mean"]
    assert inexact == pytest.approx(exact, rel=0.2)
