"""Sentences: domains as teams, and who gains."""

from ..contests import grids
from . import study
from .study import Study

# Words are many and weak: steps are long. All methods are tuned over the same ones.
_LR = 10.0
_LR_GRU = 1.0
_LADDER = tuple({"device_lr": lr} for lr in (3.0, 10.0, 30.0, 100.0))
_DATA = {
    "clinc_oos": "--dataset=clinc_oos --num_teams=10 --devices_per_team=4",
    "banking77": "--dataset=banking77 --num_teams=7 --devices_per_team=4 "
    "--partition=two_level_dirichlet --team_alpha=0.1",
}
_PLAYS = "--dataset=shakespeare --model=gru --num_teams=4 --devices_per_team=5 "
_PLAYS += "--team_steps=2 --device_steps=10"
_OTHERS = {
    "PerMFL-auto": "permfl_auto",
    "h-SGD": "hsgd",
    "FedAvg": "fedavg",
    "alone": "local",
    "pooled": "pooled",
}


def _arms(quick):
    if quick:
        return _lines("banking77", quick)
    return [arm for name in _DATA for arm in _lines(name, quick)] + _speakers()


def _speakers():
    """The next character of a play: devices are speakers, teams random."""
    lines: tuple[study.Line, ...] = (
        ("PerMFL, paper's values", "permfl", (study.paper(_LR_GRU),)),
        ("PerMFL", "permfl", tuple(study.permfl(_LR_GRU, x, 0.1) for x in (0.05, 0.5))),
        *(
            (line, method, ({"device_lr": _LR_GRU},))
            for line, method in _OTHERS.items()
        ),
    )
    return study.arms("speakers", "shakespeare", _PLAYS, lines)


def _lines(name, quick):
    # Eight settings whose pulls go as the inverse of the step size, βγ = 1 and 4.
    grid = [
        {**setting, "server_lr": reach * setting["server_lr"]}
        for setting in grids.grid("permfl", _LR)
        for reach in (1, 4)
    ]
    paper = tuple(study.paper(step["device_lr"]) for step in _LADDER)
    lines: tuple[study.Line, ...] = (
        ("PerMFL, paper's values", "permfl", paper),
        ("PerMFL", "permfl", tuple(grid[::4] if quick else grid)),
        *((line, method, _LADDER) for line, method in _OTHERS.items()),
    )
    arms = []
    for teams in ("consecutive", "random"):
        flags = f"{_DATA[name]} --team_formation={teams}"
        own = lines if teams == "consecutive" else lines[1:4]
        where = {"consecutive": "true teams", "random": "random teams"}[teams]
        arms += study.arms(where, name, flags, own)
    return arms


STUDY = Study(
    title="Text: are domains good teams?",
    flags="--num_rounds=20 --team_steps=4 --device_steps=5 --batch_size=16 "
    "--text_features=512 --eval_every=20",
    quick_flags="--num_rounds=10 --eval_every=10 --text_features=256",
    arms=_arms,
    exact=lambda _: (),
    axes={
        "true teams": ("dataset", "accuracy"),
        "random teams": ("dataset", "accuracy"),
        "speakers": ("dataset", "accuracy"),
    },
    apart=True,
)
