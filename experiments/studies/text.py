"""Sentences: domains as teams, and who gains."""

from . import study
from .study import Study

_LR = 0.3
_DATA = {
    "clinc_oos": "--dataset=clinc_oos --num_teams=10 --devices_per_team=4",
    "banking77": "--dataset=banking77 --num_teams=7 --devices_per_team=4 "
    "--partition=two_level_dirichlet --team_alpha=0.1",
}


def _arms(quick):
    names = ["banking77"] if quick else list(_DATA)
    return [arm for name in names for arm in _lines(name, quick)]


def _lines(name, quick):
    given: study.Setting = {"device_lr": _LR}
    ladder = tuple({"device_lr": lr} for lr in (_LR, 10 * _LR, 100 * _LR))
    lines: tuple[study.Line, ...] = (
        ("PerMFL, paper's values", "permfl", (study.paper(_LR),)),
        ("PerMFL, tuned", "permfl", study.tuning(_LR, quick)),
        ("PerMFL-auto", "permfl_auto", (given,)),
        ("h-SGD, tuned", "hsgd", ladder),
        ("FedAvg, tuned", "fedavg", ladder),
        ("alone, tuned", "local", ladder),
        ("pooled, tuned", "pooled", ladder),
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
    exact=lambda: (),
    axes={
        "true teams": ("dataset", "accuracy"),
        "random teams": ("dataset", "accuracy"),
    },
)
