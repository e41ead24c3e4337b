"""How rarely may teams talk to the server?"""

import numpy as np

from permfl_jax import bounds, closed_forms, quadratics

from . import study
from .study import Curve, Study

_LR = 0.05
_TEAMS, _DEVICES, _LOOPS = 4, 10, 5
_BUDGET = 100  # team rounds in all, T·K
_CODES = {
    "whole": "none",
    "int8": "int8",
    "largest 10 %": "topk:0.1",
    "largest 1 %": "topk:0.01",
}


def _loops(quick):
    return (1, 5, 20) if quick else (1, 2, 5, 10, 20, 50)


# Where nothing is spared. Every arm gives all of it, so that flags of the user cannot
# move one arm and leave the others; those that give the same are trained once.
_PLAIN: dict[str, int | float | str] = {
    "team_steps": _LOOPS,
    "num_rounds": _BUDGET // _LOOPS,
    "eval_every": _BUDGET // _LOOPS,
    "teams_per_round": _TEAMS,
    "devices_per_round": _DEVICES,
    "device_upload": "none",
    "team_upload": "none",
    "device_loss": 0.0,
    "team_loss": 0.0,
}


def _arms(quick):
    arms = []
    for k in _loops(quick):
        rounds = {"num_rounds": _BUDGET // k, "eval_every": _BUDGET // k}
        arms += _lines("T·K = 100", k, team_steps=k, **rounds)
    for m in (1, _TEAMS) if quick else (1, 2, _TEAMS):
        arms += _lines("teams that act", m, teams_per_round=m)
    for n in (1, _DEVICES) if quick else (1, 2, 5, _DEVICES):
        arms += _lines("devices that act", n, devices_per_round=n)
    for name, code in _CODES.items():
        arms += _lines("coded uploads", name, device_upload=code, team_upload=code)
    for loss in (0.0, 0.3) if quick else (0.0, 0.1, 0.3, 0.5):
        arms += _lines("lost uploads", loss, device_loss=loss, team_loss=loss)
    return arms


def _lines(panel, at, **changed):
    lines: tuple[study.Line, ...] = (
        ("PerMFL", "permfl", (study.permfl(_LR, 0.5, 0.1),)),
        ("auto", "permfl_auto", ({"device_lr": _LR},)),
        ("h-SGD", "hsgd", ({"device_lr": _LR},)),
    )
    flags = " ".join(f"--{name}={it}" for name, it in (_PLAIN | changed).items())
    return study.arms(panel, at, flags, lines)


def _exact(_):
    """Distance of x to its optimum after T rounds of K team rounds, T·K = 100."""
    problem = problem_of()
    lines = {
        "paper's values": study.paper(_LR),
        "η = 1/(λ+γ), β = 1/γ": study.permfl(_LR, 0.5, 3.0),
        "γ/λ = 0.1": study.permfl(_LR, 0.5, 0.1),
    }
    places = _loops(quick=False)
    return [
        Curve(
            "distance after T·K = 100",
            line,
            places,
            tuple(_left(problem, setting, loops) for loops in places),
        )
        for line, setting in lines.items()
    ]


def problem_of() -> quadratics.Quadratics:
    """4 teams of 10 devices; curvature 0.2 to 3, teams twice as far apart."""
    rng = np.random.default_rng(0)
    curvature = quadratics.spectra(rng, 40, 10, 0.2, 3.0)
    return quadratics.draw(rng, (10,) * 4, curvature, team_spread=2.0)


def _left(problem, setting, loops):
    settings = bounds.Settings(**setting, team_steps=loops, device_steps=10)
    step = closed_forms.round_map(problem, settings)
    exact = closed_forms.optimum(
        problem, setting["device_prox"], setting["team_prox"]
    ).server
    x = np.zeros_like(exact)
    for _ in range(_BUDGET // loops):
        x = step(x)
    return float(np.linalg.norm(x - exact) / np.linalg.norm(exact))


STUDY = Study(
    title="How rarely may teams talk to the server?",
    flags="--dataset=mnist --partition=two_level_dirichlet --team_alpha=0.3 "
    f"--num_teams={_TEAMS} --devices_per_team={_DEVICES} --device_steps=10 "
    "--batch_size=32",
    quick_flags="--dataset=digits --device_steps=5 --batch_size=16",
    arms=_arms,
    exact=_exact,
    axes={
        "distance after T·K = 100": ("team rounds K", "|x − x*| over |x*|"),
        "T·K = 100": ("team rounds K", "accuracy"),
        "teams that act": ("teams that act, of 4", "accuracy"),
        "devices that act": ("devices that act, of 10 a team", "accuracy"),
        "coded uploads": ("what is sent of each upload", "accuracy"),
        "lost uploads": ("share of uploads that are lost, both tiers", "accuracy"),
    },
    by_bytes=(
        ("T·K = 100", "team_up"),  # devices send as often
        ("teams that act", "team_up"),
        ("teams that act", "device_up"),
        ("devices that act", "device_up"),  # teams send as often
        ("coded uploads", "team_up"),
        ("coded uploads", "device_up"),
    ),
)
