"""Who should be in a team with whom, and is it worth what it tells?"""

from typing import Any

import numpy as np

from permfl_jax import random_effects

from . import study
from .study import Arm, Curve, Study

_LR = 0.05
_RULES = (
    *("oracle", "label_kmeans", "label_linkage", "update_cosine", "model_distance"),
    *("loss_choice", "random", "adversarial"),
)
_AUTO: study.Line = ("auto", "permfl_auto", ({"device_lr": _LR},))
_REGROUPED: study.Driver = ("regrouped", "update_cosine", 2, 4, 0.02)
_SPREADS = (0.25, 0.5, 1.0, 2.0, 4.0)
_SIZES = (10,) * 4
_DRAWS = 20  # of random teams


def _arms(quick):
    arms: list[Arm] = []
    for alpha in (0.1, 0.5) if quick else (0.1, 0.5, 5.0):
        panel = f"teams that differ by Dirichlet({alpha:g})"
        for rule in _RULES:
            flags = f"--team_alpha={alpha} --team_formation={rule}"
            lines: tuple[study.Line, ...] = (
                ("paper's values", "permfl", (study.paper(_LR),)),
                ("tuned", "permfl", study.tuning(_LR, quick)),
                _AUTO,
            )
            arms += study.arms(panel, rule, flags, lines)
        for rule in ("random", "adversarial"):
            flags = f"--team_alpha={alpha} --team_formation={rule} --chips=1"
            name = f"{rule}, then regrouped"
            arms += study.arms(panel, name, flags, (_AUTO,), _REGROUPED)
    return arms


def _exact(_):
    """Risk of θ by the true spread between teams, for teams of three kinds."""
    rows = [_risks(spread) for spread in _SPREADS]
    return [
        Curve("risk", line, _SPREADS, tuple(row[line] for row in rows))
        for line in rows[0]
    ]


def _risks(spread):
    where = random_effects.world(_SIZES, spread, 1.0, 1.0)
    rng = np.random.default_rng(0)
    kinds = {
        "true teams": [where.group],
        "random teams": [rng.permutation(where.group) for _ in range(_DRAWS)],
        "every team the same mix": [np.arange(sum(_SIZES)) % len(_SIZES)],
    }
    found = {}
    for kind, some in kinds.items():
        for name, choose in (("tuned", _tuned), ("paper's values", _paper)):
            risks = [choose(where, team) for team in some]
            found[f"{kind}, {name}"] = float(np.mean(risks))
    return found


def _risk(where, team, *pulls):
    weights = random_effects.optimum(team, *pulls)
    return random_effects.risk(where, team, weights).device


def _tuned(where, team):
    def score(*pulls):
        return _risk(where, team, *pulls)

    return score(*random_effects.tuned(score))


def _paper(where, team):
    return _risk(where, team, 0.5, 1.5)


def _remark(cell: dict[str, Any]) -> str:
    """Agreement with the true teams, and what devices told."""
    formed, later = cell["partition"], cell["results"][0].get("formed", {})
    agreed, told = [formed["adjusted_rand"]], formed["reveals"]
    sent = formed["formation_bytes_up"] + formed["formation_bytes_down"]
    if later.get("adjusted_rand"):
        agreed, told = later["adjusted_rand"], "two updates at each look"
        sent += np.mean(later["bytes/formation"])
    return f"ARI {np.mean(agreed):.2f}; {sent / 1e6:.3g} MB; a device tells {told}"


STUDY = Study(
    title="Who should be in a team with whom?",
    flags="--dataset=mnist --partition=two_level_dirichlet --device_alpha=1 "
    "--num_teams=4 --devices_per_team=10 --num_rounds=30 --team_steps=5 "
    "--device_steps=10 --batch_size=32 --eval_every=30",
    quick_flags="--dataset=digits --num_rounds=20 --team_steps=4 --device_steps=5 "
    "--batch_size=16 --eval_every=20",
    arms=_arms,
    exact=_exact,
    axes={
        "risk": ("σ_t (σ_d = τ = 1)", "mean square error of θ"),
        **{
            f"teams that differ by Dirichlet({a:g})": ("rule", "accuracy")
            for a in (0.1, 0.5, 5.0)
        },
    },
    remark=_remark,
)
