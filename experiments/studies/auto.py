"""Pulls that nobody tunes: PerMFL-auto, a grid, the paper's values, and rivals."""

from . import auto_risk, study
from .study import Study

_LR = 0.05
# Datasets and what they want beside the common flags.
_DATA = {
    "digits": "--dataset=digits --classes_per_device=5 --batch_size=16",
    "synthetic": "--dataset=synthetic --batch_size=32",
    "mnist": "--dataset=mnist --batch_size=32",
    "fashion_mnist": "--dataset=fashion_mnist --batch_size=32",
}


def _arms(quick):
    names = ["digits"] if quick else list(_DATA)
    return [arm for name in names for arm in _lines(name, quick)]


def _lines(name, quick):
    flags, start = _DATA[name], {"device_lr": _LR}
    wide = {**start, "device_prox": 5.0, "team_prox": 5.0}
    lines: tuple[study.Line, ...] = (
        ("paper's values", "permfl", (study.paper(_LR),)),
        ("tuned", "permfl", _grid(quick)),
        ("auto", "permfl_auto", (start,)),
        ("auto, one λ", "permfl_auto", ({**start, "alike": 1.0},)),
        ("balanced", "permfl_balanced", (start,)),
        ("annealed", "permfl_annealed", ({**wide, "decay": 0.8},)),
    )
    return study.arms("accuracy", name, flags, lines)


def _grid(quick):
    """λ times γ/λ, β at and above the safe choice."""
    reaches = (1.0,) if quick else (1.0, 3.0)
    safe = study.tuning(_LR, quick)
    return tuple(
        {**setting, "server_lr": reach * setting["server_lr"]}
        for setting in safe
        for reach in reaches
    )


STUDY = Study(
    title="Can λ, γ, β and η choose themselves?",
    flags="--num_teams=4 --devices_per_team=10 --num_rounds=30 --team_steps=5 "
    "--device_steps=10 --eval_every=3",
    quick_flags="--num_rounds=20 --team_steps=4 --device_steps=5 --eval_every=5",
    arms=_arms,
    exact=auto_risk.curves,
    axes={
        "accuracy": ("dataset", "accuracy"),
        **dict.fromkeys(
            auto_risk.PANELS,
            ("σ_t (σ_d = τ = 1)", "risk of θ over the least, trained"),
        ),
    },
    apart=True,
)
