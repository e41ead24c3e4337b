"""What a study is made of: arms that are trained, and curves that are exact."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..config import Config
from ..contests.grids import Setting as Setting

Driver = tuple[str | float, ...]
TOGETHER: Driver = ("together",)


class Arm(NamedTuple):
    """One point of a measured line.

    Attributes:
      panel: the row of the figure; arms of a panel are compared.
      line: in the panel.
      at: its place on the panel's axis, a number or a name.
      flags: over the study's, `--num_teams=2 --devices_per_team=20`.
      method: that is trained.
      settings: of its hyper-parameters; of several, each label takes the one that is
        best on validation.
      driver: how it is trained: a key of `cells.DRIVERS` and what that takes.
    """

    panel: str
    line: str
    at: float | str
    flags: str
    method: str
    settings: tuple[Setting, ...]
    driver: Driver = TOGETHER


# What is drawn as a line: its name, its method and settings.
Line = tuple[str, str, tuple[Setting, ...]]


def arms(
    panel: str,
    at: float | str,
    flags: str,
    lines: Sequence[Line],
    driver: Driver = TOGETHER,
) -> list[Arm]:
    """One arm of each line, at one place."""
    return [
        Arm(panel, line, at, flags, method, settings, driver)
        for line, method, settings in lines
    ]


class Curve(NamedTuple):
    """One exact line: nothing is drawn at random.

    Attributes:
      panel: with lines to compare it with.
      line: in the panel.
      at: places on the axis.
      values: beside them.
    """

    panel: str
    line: str
    at: tuple[float | str, ...]
    values: tuple[float, ...]


class Study(NamedTuple):
    """One question.

    Attributes:
      title: the question.
      flags: of all arms.
      quick_flags: over them, at `--quick`.
      arms: `(quick) -> arms`.
      exact: `(config) -> curves`, by the checked flags of the first arm.
      axes: panel to what its axis shows, and for exact panels to what is drawn.
      by_bytes: measured panels that are also drawn over the bytes that were sent, and
        whose: `team_up` or `device_up`.
      over_rounds: measured panels that are also drawn over rounds, in a figure of their
        own, and the exact panel of GM's gain in a round that belongs to each, or "".
      remark: `(cell) -> text`, a column more in the tables, or `None`.
      apart: places of a panel are worlds of their own, such as datasets: GM's target is
        that of its place, not of the panel.
    """

    title: str
    flags: str
    quick_flags: str
    arms: Callable[[bool], Sequence[Arm]]
    exact: Callable[[Config], Sequence[Curve]]
    axes: dict[str, tuple[str, str]]
    by_bytes: tuple[tuple[str, str], ...] = ()
    over_rounds: tuple[tuple[str, str], ...] = ()
    remark: Callable[[dict[str, Any]], str] | None = None
    apart: bool = False


# PerMFL as in Table 2 of the paper, without its step size of the devices.
PAPER: Setting = {
    "device_prox": 0.5,
    "team_prox": 1.5,
    "team_lr": 0.03,
    "server_lr": 0.6,
}


def permfl(
    device_lr: float, pull: float, ratio: float, reach: float = 1.0, full: float = 1.0
) -> Setting:
    """PerMFL by λ, γ/λ, βγ and η(λ + γ): what its rounds depend on."""
    team_prox = ratio * pull
    return {
        "device_lr": device_lr,
        "device_prox": pull,
        "team_prox": team_prox,
        "team_lr": full / (pull + team_prox),
        "server_lr": reach / team_prox,
    }


def paper(device_lr: float) -> Setting:
    """The paper's values at a step size."""
    return {"device_lr": device_lr, **PAPER}


def tuning(device_lr: float, quick: bool) -> tuple[Setting, ...]:
    """A grid of λ and γ/λ at one step size, η and βγ at the safe choices."""
    pulls = (0.1, 2.0) if quick else (0.05, 0.5, 5.0)
    ratios = (0.1, 1.0) if quick else (0.1, 0.5, 2.0)
    return tuple(permfl(device_lr, pull, r) for pull in pulls for r in ratios)
