"""Few teams: what does PerMFL lose, or win, as the number of teams goes down?"""

from permfl_jax import random_effects

from . import study
from .study import Arm, Curve, Study

# σ_d, τ and σ_t of the exact curves.
_DEVICE, _NOISE, _TEAM = 1.0, 1.0, 2.0
_ALL = 40
_LR = 0.05
_SEEN, _SEEN_QUICK = (1, 2, 5, 10), (1, 4)  # teams, of one more


def _sizes(quick):
    """M with N = 10, and M with M·N = 40."""
    return ((1, 2, 4) if quick else (1, 2, 5, 10)), (
        (1, 4, 20) if quick else (1, 2, 4, 8, 20)
    )


def _arms(quick):
    fixed, shared = _sizes(quick)
    arms = []
    for teams in fixed:
        flags = f"--num_teams={teams} --devices_per_team=10"
        arms += _lines("10 devices a team", teams, flags, quick)
    for teams in shared:
        flags = f"--num_teams={teams} --devices_per_team={_ALL // teams}"
        arms += _lines(f"{_ALL} devices", teams, flags, quick)
    for acting in (1, 10) if quick else (1, 2, 5, 10):
        for rule in ("participants", "stale"):
            flags = (
                f"--num_teams=10 --devices_per_team=4 --teams_per_round={acting} "
                f"--aggregate={rule}"
            )
            arms.append(
                Arm(
                    "10 teams, some act",
                    f"server averages {rule}",
                    acting,
                    flags,
                    "permfl",
                    (study.permfl(_LR, 0.5, 1.0),),
                )
            )
    flags = f"--num_teams={(_SEEN_QUICK if quick else _SEEN)[-1] + 1}"
    flags += " --devices_per_team=10 --chips=1"
    for teams in _SEEN_QUICK if quick else _SEEN:
        lines: tuple[study.Line, ...] = (
            ("PerMFL", "permfl", (study.permfl(_LR, 0.5, 0.1),)),
            ("auto", "permfl_auto", ({"device_lr": _LR},)),
            ("h-SGD", "hsgd", ({"device_lr": _LR},)),
        )
        arms += study.arms("an unseen team", teams, flags, lines, ("unseen", teams))
    return arms


def _lines(panel, teams, flags, quick):
    return [
        Arm(panel, "paper's values", teams, flags, "permfl", (study.paper(_LR),)),
        Arm(panel, "tuned", teams, flags, "permfl", study.tuning(_LR, quick)),
        Arm(panel, "auto", teams, flags, "permfl_auto", ({"device_lr": _LR},)),
    ]


def _exact(_):
    curves = []
    for panel, places in (
        ("risk, 10 devices a team", (1, 2, 5, 10, 20)),
        ("risk, 40 devices", (1, 2, 4, 8, 20)),
    ):
        sizes = [10 if "team" in panel else _ALL // teams for teams in places]
        found = [_risks(m, n) for m, n in zip(places, sizes, strict=True)]
        for line in found[0]:
            values = tuple(risks[line] for risks in found)
            curves.append(Curve(panel, line, places, values))
    return curves


def _risks(num_teams, size):
    where = random_effects.world([size] * num_teams, _TEAM, _DEVICE, _NOISE)

    def risk(*pulls):
        weights = random_effects.optimum(where.group, *pulls)
        return random_effects.risk(where, where.group, weights)

    best = risk(*random_effects.tuned(lambda *pulls: risk(*pulls).device))
    return {
        "PM, tuned": best.device,
        "PM, paper's values": risk(0.5, 1.5).device,
        "TM, tuned for PM": best.team,
        "GM, own teams": best.server,
        "GM, an unseen team": best.unseen,
    }


STUDY = Study(
    title="What do few teams cost?",
    flags="--dataset=mnist --partition=two_level_dirichlet --team_alpha=0.3 "
    "--device_alpha=1 --num_rounds=30 --team_steps=5 --device_steps=10 "
    "--batch_size=32 --eval_every=3",
    quick_flags="--dataset=digits --num_rounds=20 --team_steps=4 --device_steps=5 "
    "--batch_size=16 --eval_every=5",
    arms=_arms,
    exact=_exact,
    axes={
        "10 devices a team": ("teams M", "accuracy"),
        "40 devices": ("teams M", "accuracy"),
        "an unseen team": ("teams that were trained on", "accuracy"),
        "10 teams, some act": ("teams that act in a round", "accuracy"),
        "risk, 10 devices a team": ("teams M", "mean square error"),
        "risk, 40 devices": ("teams M", "mean square error"),
    },
)
