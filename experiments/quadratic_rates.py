"""Rates and floors of PerMFL on quadratics: closed forms beside the algorithm."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from permfl_jax import bounds, closed_forms, quadratics, theory
from permfl_jax.participation import Sampler
from permfl_jax.theory import Settings

from . import intervals, straight, watch
from .quadratic_cells import DIM, ENDS, PULLS, SAMPLES, Cell
from .watch import Numbers, Subject

_SHRINK = 1e-11  # of the slowest direction, before a run ends
_MOST_ROUNDS = 4000
_MARKS = 25  # rounds of a curve that are shown
_MOST_PREDICTED = 1000  # devices
_AWAY = 10.0  # of the starts, in each coordinate


def problem_of(cell: Cell) -> quadratics.Quadratics:
    """The federation of a cell: drawn from one seed, the same for all of its runs."""
    rng = np.random.default_rng(0)
    curvature = quadratics.spectra(rng, sum(cell.team_sizes), DIM, *ENDS)
    drawn = cell.batch_size is not None
    return quadratics.draw(
        rng,
        cell.team_sizes,
        curvature[:1] if cell.aligned else curvature,
        noise=1.0 if drawn else 0.0,
        counts=SAMPLES if drawn else 1,
        turned=not cell.aligned,
    )


class Prediction(NamedTuple):
    """What the closed forms say of a cell.

    Attributes:
      radius: of the map of a round, exactly.
      worst: ρ_x, for any federation of such curvature.
      bias: |x - x*| where the runs end.
      floor: the bound on it.
      optimum: x*, w*, θ*.
      limit: where the tiers end.
      rounds: T that are enough to see it.
    """

    radius: float
    worst: float
    bias: float
    floor: float
    optimum: closed_forms.Tiers
    limit: closed_forms.Tiers
    rounds: int


def predict(problem: quadratics.Quadratics, chosen: Settings) -> Prediction:
    """All of it, from the federation and the numbers."""
    pulls = {"device_prox": chosen.device_prox, "team_prox": chosen.team_prox}
    exact = closed_forms.optimum(problem, **pulls)
    step = closed_forms.round_map(problem, chosen)
    limit = closed_forms.after_round(problem, chosen, step.fixed_point)
    sizes = closed_forms.gradient_sizes(problem, chosen, step.fixed_point)
    radius = step.radius
    return Prediction(
        radius=radius,
        worst=bounds.contractions(ENDS, chosen).server,
        bias=float(np.linalg.norm(limit.server - exact.server)),
        floor=bounds.floor_at_rest(
            ENDS, chosen, team_gradient=sizes.team, device_gradient=sizes.device
        ).total,
        optimum=exact,
        limit=limit,
        rounds=min(math.ceil(math.log(_SHRINK) / math.log(radius)), _MOST_ROUNDS),
    )


def starts_of(seeds: Sequence[int], twin: int = 0) -> np.ndarray:
    """`[R, d]`: x^0 of each seed, or of the run that shares its draws."""
    return np.stack(
        [_AWAY * np.random.default_rng([s, twin]).normal(size=DIM) for s in seeds]
    )


class Measured(NamedTuple):
    """A cell, what was predicted of it, and its runs.

    Attributes:
      cell: the setting.
      problem: the federation.
      predicted: from closed forms.
      starts: `[R, d]`, x^0.
      metrics: `[R, T]` each.
      errors: `[R, T]`, which fall to 0 at the rate of the method: the distance to the
        limit, or where rounds are drawn that of two runs with the same draws.
    """

    cell: Cell
    problem: quadratics.Quadratics
    predicted: Prediction
    starts: np.ndarray
    metrics: dict[str, np.ndarray]
    errors: np.ndarray


def measure(
    cell: Cell, seeds: Sequence[int], num_rounds: int | None = None
) -> Measured:
    """Runs a cell with all seeds at once.

    Args:
      cell: the setting.
      seeds: R.
      num_rounds: T; by default enough to see the rate and the floor.
    """
    problem = problem_of(cell)
    found = predict(problem, cell.settings)
    data = quadratics.federation_of(problem)
    subject = Subject(
        quadratics.loss,
        data,
        Sampler.of(data, cell.teams_per_round, cell.devices_per_round),
        cell.batch_size,
        keep_models=cell.noisy,
    )
    pulls = cell.settings.device_prox, cell.settings.team_prox
    numbers = Numbers(
        watch.gains(cell.settings),
        {"optimum": found.optimum._asdict(), "limit": found.limit._asdict()},
        closed_forms.objective(problem, *pulls),
    )
    twins = 2 if cell.noisy else 1
    starts = np.concatenate([starts_of(seeds, twin) for twin in range(twins)])
    metrics, _ = watch.follow(
        subject,
        cell.settings,
        [numbers],
        starts,
        [*seeds] * twins,
        num_rounds or found.rounds,
    )
    metrics = {name: rows[:, 0] for name, rows in metrics.items()}
    errors = metrics["server/to_limit"]
    if cell.noisy:
        errors = watch.coupled(metrics.pop("server/model"))
    first = {name: rows[: len(seeds)] for name, rows in metrics.items()}
    return Measured(cell, problem, found, starts[: len(seeds)], first, errors)


def row(measured: Measured) -> dict[str, Any]:
    """What is kept of a cell."""
    cell, found = measured.cell, measured.predicted
    rate = straight.rates(measured.errors)
    ends = measured.metrics["server/to_optimum"]
    tail = max(ends.shape[1] // 10, 1)
    bias = intervals.interval([float(np.sqrt(np.mean(e[-tail:] ** 2))) for e in ends])
    share = theory.progress(ENDS.low, **cell.settings._asdict()).server
    return {
        "sweep": cell.sweep,
        "cell": cell.label,
        "settings": cell.settings._asdict(),
        "rounds": ends.shape[1],
        "rate": rate and rate._asdict(),
        # Where rounds are drawn, w and θ stop at the noise too early for a line.
        "tier_rates": dict.fromkeys(("team", "device"))
        if cell.noisy
        else straight.tier_rates(measured.metrics),
        "predicted_rate": found.radius,
        "relative_error": rate and abs((1 - rate.mean) / (1 - found.radius) - 1),
        "worst_rate": found.worst,
        "gain_at_low": share,
        "floor": bias and bias._asdict(),
        # Where rounds are drawn, the end is noise, of which neither says anything.
        "exact_floor": None if cell.noisy else found.bias,
        "floor_bound": None if cell.noisy else found.floor,
        "limits": bounds.limits(ENDS, **PULLS)._asdict(),
        "curves": curves(measured),
    }


def curves(measured: Measured) -> dict[str, Any]:
    """Measured and predicted distances to the optimum, at some rounds.

    Means over the seeds, on a log scale. Where rounds are drawn, or the federation is
    large, there is no prediction of each round.
    """
    total = measured.metrics["server/to_optimum"].shape[1]
    rounds = np.unique(np.linspace(1, total, min(_MARKS, total)).astype(int))
    names = {tier: f"{tier}/to_optimum" for tier in watch.TIERS}
    names["gradient"] = "server/gradient"
    shown = {
        key: {"measured": _mean(measured.metrics[name][:, rounds - 1])}
        for key, name in names.items()
    }
    if not measured.cell.noisy and len(measured.problem.team) <= _MOST_PREDICTED:
        exact = np.array([_exact(measured, x, rounds) for x in measured.starts])
        for key, values in zip(names, np.moveaxis(exact, 2, 0), strict=True):
            shown[key]["predicted"] = _mean(values)
    return {"to": "optimum", "rounds": rounds.tolist(), **shown}


def _mean(values):
    """Over seeds, of the logarithms."""
    return np.exp(np.log(np.maximum(values, 1e-300)).mean(axis=0)).tolist()


def _exact(measured, start, rounds):
    """Distances of θ, w and x after some rounds, and |∇F| before them, `[n, 4]`."""
    problem, chosen = measured.problem, measured.cell.settings
    best = measured.predicted.optimum
    step = closed_forms.round_map(problem, chosen)
    values, axes = np.linalg.eigh(step.matrix)
    slope = closed_forms.objective(problem, chosen.device_prox, chosen.team_prox)
    fixed = step.fixed_point
    away, found = axes.T @ (start - fixed), []
    for t in rounds:
        before = fixed + axes @ (values ** (t - 1) * away)
        tiers = closed_forms.after_round(problem, chosen, before)
        found.append(
            [
                math.sqrt(((tiers.device - best.device) ** 2).sum(axis=1).mean()),
                math.sqrt(((tiers.team - best.team) ** 2).sum(axis=1).mean()),
                float(np.linalg.norm(tiers.server - best.server)),
                float(np.linalg.norm(slope(before))),
            ]
        )
    return found
