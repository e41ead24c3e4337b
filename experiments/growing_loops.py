"""K and L fixed, growing as log T, or in step with T: what is left after T rounds."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from permfl_jax import bounds

from . import intervals, quadratic_rates
from .quadratic_cells import ENDS, PULLS, Cell, settings


def rows(seeds: Sequence[int], quick: bool) -> Iterator[dict[str, Any]]:
    """Errors after T rounds, beside ρ_x^T |x^0 - x*|, the pace of exact inner loops."""
    rates = bounds.contractions(ENDS, settings())
    for num_rounds in (10, 40) if quick else (10, 20, 40, 80):
        plans = {
            "fixed": bounds.Loops(2, 4),
            "as log T": bounds.loops_below(1 / num_rounds, rates),
            "as T": bounds.loops_at_rate(rates, num_rounds),
        }
        for name, loops in plans.items():
            assert loops.team_steps is not None  # all rates are below 1
            assert loops.device_steps is not None
            chosen = settings(loops.team_steps, loops.device_steps)
            label = f"T={num_rounds}, K={chosen.team_steps} L={chosen.device_steps}"
            cell = Cell("rounds", f"{name}: {label}", chosen)
            yield _row(cell, name, seeds, num_rounds, rates.server)


def _row(cell, plan, seeds, num_rounds, rate):
    measured = quadratic_rates.measure(cell, seeds, num_rounds)
    left = measured.metrics["server/to_optimum"][:, num_rounds - 1]
    best = measured.predicted.optimum.server
    away = np.linalg.norm(measured.starts - best, axis=1)
    pace = rate**num_rounds * away
    ratio = intervals.interval((left / pace).tolist())
    whole = intervals.interval(left.tolist())
    return {
        "sweep": cell.sweep,
        "cell": cell.label,
        "plan": plan,
        "settings": cell.settings._asdict(),
        "rounds": num_rounds,
        "limits": bounds.limits(ENDS, **PULLS)._asdict(),
        "left": whole and whole._asdict(),
        "pace": float(pace.mean()),
        "over_pace": ratio and ratio._asdict(),
    }
