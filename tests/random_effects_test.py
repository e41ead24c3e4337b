"""Risks without a draw: against SPEC's table, draws, and the best linear estimate."""

import numpy as np
import pytest

from permfl_jax import closed_forms, quadratics, random_effects
from permfl_jax.errors import InputError


def tuned_risk(where, team):
    def score(device_prox, team_prox):
        weights = random_effects.optimum(team, device_prox, team_prox)
        return random_effects.risk(where, team, weights).device

    return score(*random_effects.tuned(score))


def alike(num_teams, size, team_spread=2.0, device_spread=1.0, noise=1.0):
    return random_effects.world([size] * num_teams, team_spread, device_spread, noise)


@pytest.mark.parametrize(
    ("teams", "size", "expected"),
    [
        *((m, 10, r) for m, r in ((1, 0.5585), (2, 0.5497), (5, 0.5464), (10, 0.5471))),
        *(
            (m, 40 // m, r)
            for m, r in ((1, 0.513), (2, 0.525), (4, 0.548), (20, 0.699))
        ),
    ],
)
def test_few_teams_as_simulated_before(teams, size, expected):
    """SPEC E-Q1 gives figures of simulations, up to 1.5 % beside the exact ones."""
    where = alike(teams, size)
    assert tuned_risk(where, where.group) == pytest.approx(expected, rel=0.02)


def test_one_team_by_hand():
    """Half of the way to a mean of ten whose own error is a tenth: 1/2 + 1/2 · 1/10."""
    where = alike(1, 10)
    assert tuned_risk(where, where.group) == pytest.approx(0.55, rel=1e-9)


@pytest.mark.parametrize(
    ("team_spread", "true", "mixed", "paper_true", "paper_mixed"),
    [(0.5, 0.528, 0.554, 0.576, 0.583), (4.0, 0.546, 0.918, 1.45, 1.86)],
)
def test_teams_as_simulated_before(team_spread, true, mixed, paper_true, paper_mixed):
    where = alike(4, 10, team_spread)
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(where.group) for _ in range(40)]
    assert tuned_risk(where, where.group) == pytest.approx(true, rel=0.02)
    found = np.mean([tuned_risk(where, team) for team in drawn[:8]])
    assert found == pytest.approx(mixed, rel=0.03)

    def paper(team):
        weights = random_effects.optimum(team, 0.5, 1.5)
        return random_effects.risk(where, team, weights).device

    assert paper(where.group) == pytest.approx(paper_true, rel=0.05)
    assert np.mean([paper(t) for t in drawn]) == pytest.approx(paper_mixed, rel=0.05)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (2, 3, 7)])
def test_the_optimum_is_that_of_quadratics(sizes):
    rng = np.random.default_rng(3)
    for weights in ("uniform", "samples"):
        problem = quadratics.draw(
            rng,
            sizes,
            np.full(4, 2.0),
            counts=rng.integers(1, 9, sum(sizes)),
            noise=1.0,
            turned=False,
            weights=weights,
        )
        exact = closed_forms.optimum(problem, 0.7, 0.3)
        counted = problem.count if weights == "samples" else None
        found = random_effects.optimum(problem.team, 0.7, 0.3, counted, curvature=2.0)
        for mine, theirs in zip(found, reversed(exact), strict=True):
            assert np.allclose(mine @ problem.centre, theirs, rtol=0, atol=1e-12)


def test_risks_are_means_over_draws():
    """Of worlds and data drawn from the model, within four standard errors."""
    where = random_effects.world((3, 5), 2.0, 0.7, np.linspace(0.5, 2, 8))
    team = np.array([0, 0, 1, 1, 0, 1, 1, 0])
    weights = random_effects.optimum(team, 0.8, 0.4)
    exact = random_effects.risk(where, team, weights)
    rng = np.random.default_rng(0)
    size = 40_000
    centre = 5.0 + 2.0 * rng.normal(size=(2, size))
    truth = centre[where.group] + 0.7 * rng.normal(size=(8, size))
    seen = truth + where.noise[:, None] * rng.normal(size=(8, size))
    new = 5.0 + 2.0 * rng.normal(size=size) + 0.7 * rng.normal(size=size)
    misses = {
        "device": weights.device @ seen - truth,
        "team": weights.team[team] @ seen - truth,
        "server": weights.server @ seen - truth,
        "unseen": (weights.server @ seen - new)[None],
    }
    for name, miss in misses.items():
        drawn = (miss**2).mean(axis=0)
        error = drawn.std() / np.sqrt(size)
        assert abs(drawn.mean() - getattr(exact, name)) < 4 * error, name


@pytest.mark.parametrize("sizes", [(10, 10, 10, 10), (1, 4, 7)])
def test_the_derived_pulls_are_the_best_linear_estimate(sizes):
    """Equal counts by equal weights; any counts where samples weigh."""
    count = np.random.default_rng(2).integers(1, 30, sum(sizes))
    where = random_effects.world(sizes, 2.0, 0.5, np.sqrt(3.0 / count))
    in_team = np.bincount(where.group, count)
    pulls = 3.0 / (count * 0.5**2), 3.0 / (in_team * 2.0**2)
    found = random_effects.optimum(where.group, *pulls, device_weight=count)
    assert np.allclose(found.device, random_effects.best(where), atol=1e-12)
    uniform = random_effects.optimum(where.group, *pulls).device
    assert not np.allclose(uniform, random_effects.best(where), atol=1e-3)
    where = random_effects.world([10] * 4, 2.0, 1.0, 1.0)
    found = random_effects.optimum(where.group, 1.0, 1 / (10 * 4))
    assert np.allclose(found.device, random_effects.best(where), atol=1e-12)


def test_no_estimate_beats_the_best():
    where = random_effects.world((2, 6, 4), 1.5, 1.0, np.linspace(0.2, 2, 12))
    floor = random_effects.each(where, random_effects.best(where))
    rng = np.random.default_rng(1)
    for _ in range(20):
        team = rng.permutation(where.group)
        pulls = np.exp(rng.normal(size=12)), float(np.exp(rng.normal()))
        rows = random_effects.optimum(team, *pulls).device
        assert (random_effects.each(where, rows) >= floor - 1e-12).all()


def test_pulls_of_nothing_are_refused():
    with pytest.raises(InputError, match=r"pulls above 0, got device_prox=0 "):
        random_effects.optimum(np.zeros(3, int), 0.0, 1.0)
