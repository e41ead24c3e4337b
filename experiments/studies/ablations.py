"""The paper's ablations: one number at a time, beside what the theory predicts."""

from permfl_jax import theory

from . import study
from .study import Arm, Curve, Study

_LR = 0.05
_ALL = 50  # teams, or devices a team, of which a share acts
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
    ]
    for panel, flag, value in rest:
        paper = (study.paper(_LR),)
        arms.append(Arm(panel, "measured", value, f"--{flag}={value}", "permfl", paper))
    return arms + _shares(quick)


def _shares(quick):
    """From one of 50 teams, or of 50 devices a team, that act in a round, to all."""
    others = 2 if quick else 10
    worlds = {
        "teams": f"--num_teams={_ALL} --devices_per_team={others} --teams_per_round",
        "devices": f"--num_teams={others} --devices_per_team={_ALL} "
        "--devices_per_round",
    }
    lines: tuple[study.Line, ...] = (
        ("paper's values", "permfl", (study.paper(_LR),)),
        ("γ/λ = 0.1, βγ = 1", "permfl", (study.permfl(_LR, 0.5, 0.1),)),
        ("auto", "permfl_auto", ({"device_lr": _LR},)),
    )
    arms = []
    for who, flags in worlds.items():
        for acting in (1, 5, _ALL) if quick else (1, 2, 5, 10, 25, _ALL):
            percent = 100 * acting / _ALL
            panel = f"share of {who} that act"
            arms += study.arms(panel, percent, f"{flags}={acting}", lines)
    return arms


def _exact(config):
    """How much of its way GM goes in a round, for a scalar curvature h."""

    def gain(
        curvature,
        team_steps=config.team_steps,
        device_steps=config.device_steps,
        **changed,
    ):
        setting = study.paper(_LR) | changed
        return theory.progress(
            curvature, team_steps=team_steps, device_steps=device_steps, **setting
        ).server

    curves = []
    for name, letter in _WHAT.items():
        for curvature in _CURVATURES:
            places = tuple(_values(name))
            gains = tuple(gain(curvature, **{name: value}) for value in places)
            curves.append(Curve(f"gain, {letter}", f"h = {curvature:g}", places, gains))
    for letter, name in _LOOPS.items():
        places = (1, 2, 4, 5, 10, 20)  # those of --quick too
        for curvature in _CURVATURES:
            gains = tuple(gain(curvature, **{name: value}) for value in places)
            curves.append(Curve(f"gain, {letter}", f"h = {curvature:g}", places, gains))
    return curves


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
        "share of teams that act": ("% of 50 teams", "accuracy"),
        "share of devices that act": ("% of 50 devices a team", "accuracy"),
    },
    over_rounds=(
        *((letter, f"gain, {letter}") for letter in (*_WHAT.values(), *_LOOPS)),
        ("share of teams that act", ""),
        ("share of devices that act", ""),
    ),
)
