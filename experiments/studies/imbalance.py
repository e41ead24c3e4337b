"""Imbalance: of labels, classes, samples and teams, each by itself."""

import numpy as np

from permfl_jax import random_effects

from . import study
from .study import Arm, Curve, Study

_LR = 0.05
_TEAMS = {
    "alike": "--devices_per_team=10",
    "2, 4, 8, 26": "--devices_per_team=2,4,8,26",
}
_SIGMAS = (0.0, 0.5, 1.0, 1.5, 2.0)


def _arms(quick):
    few = slice(None, None, 3 if quick else 1)
    arms = []
    for alpha in (0.05, 0.1, 0.5, 5.0)[few]:
        flags = f"--partition=dirichlet --dirichlet_alpha={alpha}"
        arms += _lines("label skew", alpha, flags, quick)
    for factor in (1, 10, 100)[:: 2 if quick else 1]:
        flags = (
            f"--partition=dirichlet --dirichlet_alpha=0.5 --class_imbalance={factor}"
        )
        arms += _lines("long tail", factor, flags, quick)
    for sigma in (0, 1, 2)[:: 2 if quick else 1]:
        flags = f"--partition=quantity --quantity_sigma={sigma}"
        arms += _lines("samples", sigma, flags, quick)
    for name, sizes in _TEAMS.items():
        flags = f"--partition=two_level_dirichlet --team_alpha=0.3 {sizes}"
        arms += _lines("team sizes", name, flags, quick)
    for alpha in (0.1, 1.0, 10.0)[:: 2 if quick else 1]:
        flags = (
            f"--partition=two_level_dirichlet --team_alpha={alpha} "
            f"--device_alpha={alpha}"
        )
        arms += _lines("nested skew", alpha, flags, quick)
    return arms


def _lines(panel, at, flags, quick):
    """Weights by device and by sample, one λ and one by samples."""
    by_sample, flags = f"{flags} --weights=samples", f"{flags} --weights=uniform"
    auto = {"device_lr": _LR}
    lines = [
        Arm(panel, "tuned, equal weights", at, flags, "permfl", _grid(quick)),
        Arm(panel, "tuned, by samples", at, by_sample, "permfl", _grid(quick)),
        Arm(panel, "auto, λ by device", at, flags, "permfl_auto", (auto,)),
        Arm(panel, "auto, one λ", at, flags, "permfl_auto", ({**auto, "alike": 1.0},)),
    ]
    if not quick:
        both = Arm(
            panel,
            "auto, λ by device, by samples",
            at,
            by_sample,
            "permfl_auto",
            (auto,),
        )
        lines.append(both)
    return lines


def _grid(quick):
    return study.tuning(_LR, quick)


def _exact(_):
    """Risk of θ where devices have lognormal counts, mean of 20 draws of them."""
    rows = [_risks(sigma) for sigma in _SIGMAS]
    return [
        Curve(panel, line, _SIGMAS, tuple(row[panel][line] for row in rows))
        for panel in rows[0]
        for line in rows[0][panel]
    ]


def _risks(sigma):
    found = [_risks_of(np.random.default_rng(seed), sigma) for seed in range(20)]
    panels = {"risk": np.mean, "risk, worst decile": lambda x: np.quantile(x, 0.9)}
    return {
        panel: {
            line: float(np.mean([over(draw[line]) for draw in found]))
            for line in found[0]
        }
        for panel, over in panels.items()
    }


def _risks_of(rng, sigma):
    """σ_d = 1, σ_t = 2; a device's τ² is 1 where it has the mean number of samples."""
    count = np.exp(sigma * rng.normal(size=40))
    count /= count.mean()
    where = random_effects.world([10] * 4, 2.0, 1.0, 1 / np.sqrt(count))

    def risks(device_prox, team_prox, weight=None):
        rows = random_effects.optimum(where.group, device_prox, team_prox, weight)
        return random_effects.each(where, rows.device)

    def tuned(scale, weight):
        pulls = random_effects.tuned(lambda a, b: risks(a * scale, b, weight).mean())
        return risks(pulls[0] * scale, pulls[1], weight)

    own = 1 / count
    return {
        "one λ, equal weights": tuned(np.ones(40), None),
        "one λ, by samples": tuned(np.ones(40), count),
        "λ by device, equal weights": tuned(own, None),
        "λ by device, by samples": tuned(own, count),
        "best linear": random_effects.each(where, random_effects.best(where)),
        "alone": 1 / count,
    }


STUDY = Study(
    title="Which imbalance hurts whom, and what helps?",
    flags="--dataset=mnist --num_teams=4 --devices_per_team=10 --num_rounds=30 "
    "--team_steps=5 --device_steps=10 --batch_size=32 --eval_every=30",
    quick_flags="--dataset=digits --num_rounds=20 --team_steps=4 --device_steps=5 "
    "--batch_size=16 --eval_every=20",
    arms=_arms,
    exact=_exact,
    axes={
        "label skew": ("Dirichlet α of labels", "accuracy"),
        "long tail": ("most over least frequent class", "accuracy"),
        "samples": ("σ of lognormal counts", "accuracy"),
        "team sizes": ("devices of the teams", "accuracy"),
        "nested skew": ("Dirichlet α of teams and devices", "accuracy"),
        "risk": ("σ of lognormal counts", "mean square error of θ"),
        "risk, worst decile": ("σ of lognormal counts", "mean square error of θ"),
    },
)
