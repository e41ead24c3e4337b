"""Rates and floors of PerMFL on quadratics: closed forms beside the algorithm itself."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from permfl_jax import bounds, closed_forms, quadratics, theory
from permfl_jax.participation import Sampler
from permfl_jax.theory import Curvature, Settings

from . import intervals, straight, watch
from .watch import Numbers, Subject

DIM = 6
ENDS = Curvature(0.5, 5.0)
PULLS = {"device_prox": 2.0, "team_prox": 2.0}
SAMPLES = 8  # of each device
_SHRINK = 1e-11  # of the slowest direction, before a run ends
_MOST_ROUNDS = 4000
_AWAY = 10.0  # of the starts, in each coordinate


class Cell(NamedTuple):
    """One setting of one sweep.

    Attributes:
      sweep: its name.
      label: what is special about it.
      settings: all numbers of PerMFL.
      team_sizes: devices of each team.
      teams_per_round: m, or `None` for all.
      devices_per_round: n, or `None` for all.
      batch_size: B, or `None` for all samples.
    """

    sweep: str
    label: str
    settings: Settings
    team_sizes: tuple[int, ...] = (5,) * 4
    teams_per_round: int | None = None
    devices_per_round: int | None = None
    batch_size: int | None = None

    @property
    def noisy(self) -> bool:
        """Whether rounds are drawn."""
        drawn = (self.teams_per_round, self.devices_per_round, self.batch_size)
        return any(number is not None for number in drawn)


def settings(team_steps: int = 5, device_steps: int = 10, **changes: Any) -> Settings:
    """Safe step sizes for the curvatures of this file, but for the changes."""
    chosen = bounds.safe(ENDS, **PULLS)._asdict() | PULLS | changes
    return Settings(**chosen, team_steps=team_steps, device_steps=device_steps)


def cells(sweeps: Sequence[str], quick: bool) -> Iterator[Cell]:
    """Those of the sweeps asked for."""
    for name in sweeps:
        yield from SWEEPS[name](quick)


def _loops(quick):
    full = ((1, 1), (2, 5), (5, 10), (10, 20), (20, 40))
    for k, ell in full[::2] if quick else full:
        yield Cell("loops", f"K={k} L={ell}", settings(k, ell))


def _beta(quick):
    base = settings()
    limit = bounds.limits(ENDS, **PULLS).server_lr
    for share in (0.1, 0.9) if quick else (0.1, 0.3, 0.6, 0.9):
        chosen = base._replace(server_lr=share * limit)
        yield Cell("beta", f"β={share}·2/L_F", chosen)


def _teams(quick):
    for m in (1, 8) if quick else (1, 2, 4, 8, 16):
        yield Cell("teams", f"M={m}", settings(), team_sizes=(5,) * m)


def _devices(quick):
    for n in (1, 20) if quick else (1, 2, 5, 20):
        yield Cell("devices", f"N={n}", settings(), team_sizes=(n,) * 4)


def _participation(quick):
    shares = ((None, 2), (2, None), (2, 2), (1, 1))
    for m, n in shares[2:3] if quick else shares:
        label = f"m={m or 4} of 4, n={n or 5} of 5"
        yield Cell(
            "participation", label, settings(), teams_per_round=m, devices_per_round=n
        )


def _batch(quick):
    for size in (2,) if quick else (4, 2, 1):
        yield Cell("batch", f"B={size} of {SAMPLES}", settings(), batch_size=size)


def _scale(quick):
    sizes = (100,) * 10 if quick else (1000,) * 100
    label = f"D={sum(sizes)}, M={len(sizes)}"
    yield Cell("scale", label, settings(3, 5), team_sizes=sizes)


SWEEPS = {
    "loops": _loops,
    "beta": _beta,
    "teams": _teams,
    "devices": _devices,
    "participation": _participation,
    "batch": _batch,
    "scale": _scale,
}


def problem_of(cell: Cell) -> quadratics.Quadratics:
    """The federation of a cell: drawn from one seed, the same for all of its runs."""
    rng = np.random.default_rng(0)
    count = sum(cell.team_sizes)
    curvature = quadratics.spectra(rng, count, DIM, *ENDS)
    noisy = cell.batch_size is not None
    return quadratics.draw(
        rng,
        cell.team_sizes,
        curvature,
        noise=1.0 if noisy else 0.0,
        counts=SAMPLES if noisy else 1,
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
        floor=bounds.floor(
            ENDS, chosen, team_gradient=sizes.team, device_gradient=sizes.device
        ).total,
        optimum=exact,
        limit=limit,
        rounds=min(math.ceil(math.log(_SHRINK) / math.log(radius)), _MOST_ROUNDS),
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


def measure(cell: Cell, seeds: Sequence[int]) -> Measured:
    """Runs a cell with all seeds at once."""
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
    starts = np.stack(
        [
            _AWAY * np.random.default_rng([seed, twin]).normal(size=DIM)
            for twin in range(twins)
            for seed in seeds
        ]
    )
    metrics, _ = watch.follow(
        subject, cell.settings, [numbers], starts, [*seeds] * twins, found.rounds
    )
    metrics = {name: rows[:, 0] for name, rows in metrics.items()}
    errors = metrics["server/to_limit"]
    if cell.noisy:
        errors = watch.coupled(metrics.pop("server/model"))
    first = {name: rows[: len(seeds)] for name, rows in metrics.items()}
    return Measured(cell, problem, found, starts[: len(seeds)], first, errors)


def row(measured: Measured) -> dict[str, Any]:
    """What the table says of a cell."""
    cell, found = measured.cell, measured.predicted
    rate = straight.rates(measured.errors)
    ends = measured.metrics["server/to_optimum"]
    tail = max(ends.shape[1] // 10, 1)
    bias = intervals.interval([float(np.sqrt(np.mean(e[-tail:] ** 2))) for e in ends])
    share = theory.progress(ENDS.low, **cell.settings._asdict()).server
    limits = bounds.limits(ENDS, **PULLS)
    return {
        "sweep": cell.sweep,
        "cell": cell.label,
        "settings": cell.settings._asdict(),
        "rounds": ends.shape[1],
        "rate": rate and rate._asdict(),
        "radius": found.radius,
        "relative_error": rate and abs((1 - rate.mean) / (1 - found.radius) - 1),
        "worst_rate": found.worst,
        "gain_at_low": share,
        "floor": bias and bias._asdict(),
        "exact_floor": found.bias,
        "floor_bound": found.floor,
        "limits": limits._asdict(),
    }
