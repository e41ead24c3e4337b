"""The paper's ablations: one number at a time, beside what the theory predicts."""

from permfl_jax import theory

from . import study
from .study import Arm, Curve, Study

_LR = 0.05
# Multiples of the paper's values; all of them train as one program.
_FACTORS = (0.2, 0.5, 1.0, 2.0, 5.0)
_WHAT = {
    "server_lr": "β",
    "team_prox": "γ",
    "device_prox": "λ",
    "team_lr": "η",
    "device_lr": "α",
}
_CURVATURES = (0.1, 1.0)
_LOOPS = {"K": "team_steps", "L": "device_steps"}


def _values(name):
    return [factor * study.paper(_LR)[name] for factor in _FACTORS]


def _arms(quick):
    arms = []
    for name, letter in _WHAT.items():
        for value in _values(name)[:: 2 if quick else 1]:
            setting = {**study.paper(_LR), name: value}
            arms.append(Arm(letter, "measured", value, "", "permfl", (setting,)))
    rest = [
        *(("K", "team_steps", k) for k in ((1, 4) if quick else (1, 2, 5, 10, 20))),
        *(("L", "device_steps", n) for n in ((1, 5) if quick else (1, 5, 10, 20))),
        *(("teams that act", "teams_per_round", m) for m in (1, 2, 4)),
        *(
            ("devices that act", "devices_per_round", n)
            for n in ((1, 10) if quick else (1, 2, 5, 10))
        ),
    ]
    for panel, flag, value in rest:
        paper = (study.paper(_LR),)
        arms.append(Arm(panel, "measured", value, f"--{flag}={value}", "permfl", paper))
    return arms


def _exact():
    """How much of its way GM goes in a round, for a scalar curvature h."""
    curves = []
    for name, letter in _WHAT.items():
        for curvature in _CURVATURES:
            places = tuple(_values(name))
            gains = tuple(_gain(curvature, **{name: value}) for value in places)
            curves.append(Curve(f"gain, {letter}", f"h = {curvature:g}", places, gains))
    for letter, name in _LOOPS.items():
        places = (1, 2, 5, 10, 20)
        for curvature in _CURVATURES:
            gains = tuple(_gain(curvature, **{name: value}) for value in places)
            curves.append(Curve(f"gain, {letter}", f"h = {curvature:g}", places, gains))
    return curves


def _gain(curvature, *, team_steps=5, device_steps=10, **changed):
    setting = {**study.paper(_LR), **changed}
    return theory.progress(
        curvature, team_steps=team_steps, device_steps=device_steps, **setting
    ).server


STUDY = Study(
    title="The paper's ablations, at its values but for one",
    flags="--dataset=mnist --num_teams=4 --devices_per_team=10 --num_rounds=30 "
    "--team_steps=5 --device_steps=10 --batch_size=32 --eval_every=3",
    quick_flags="--dataset=digits --num_rounds=20 --team_steps=4 --device_steps=5 "
    "--batch_size=16 --eval_every=5",
    arms=_arms,
    exact=_exact,
    axes={
        **{letter: (letter, "accuracy") for letter in (*_WHAT.values(), *_LOOPS)},
        **{
            f"gain, {letter}": (letter, "GM's way in a round")
            for letter in (*_WHAT.values(), *_LOOPS)
        },
        "teams that act": ("teams that act, of 4", "accuracy"),
        "devices that act": ("devices that act, of 10 a team", "accuracy"),
    },
)
