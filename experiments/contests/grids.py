"""What the fair protocol tries: `BUDGET` settings of every method, none more.

Each grid is a function of the column's `--grid_lr`, so that a linear model of hashed
words and a network of pixels are searched around step sizes of their own. Methods with
one number get a ladder of eight over two decades; with two, four step sizes times two
values of the other; PerMFL a spread of eight over (α, λ, γ), its η and β at the safe
choices η = 1/(λ+γ) and β = 1/γ (convex combinations).
"""

from collections.abc import Callable, Iterator
from typing import Any

from permfl_jax import algorithms, hparams
from permfl_jax.errors import InputError

BUDGET = 8

Setting = dict[str, float]

# Pulls are for this step size, and go as its inverse: what matters is step size times
# pull, which beyond 2 is no descent.
_LR = 0.02
_EIGHT = (0.1, 0.2, 0.4, 0.7, 1.5, 3.0, 5.0, 10.0)
_FOUR = (0.2, 0.7, 2.5, 8.0)
# (step size over --grid_lr, λ, γ/λ): personal models want a small λ, the global model
# a small γ/λ.
_PERMFL = (
    (0.5, 0.3, 0.1),
    (1.5, 0.05, 0.1),
    (1.5, 0.3, 0.1),
    (1.5, 2.0, 0.1),
    (1.5, 0.3, 1.0),
    (1.5, 2.0, 1.0),
    (5.0, 0.05, 1.0),
    (5.0, 0.3, 0.1),
)


def _permfl(lr: float) -> Iterator[Setting]:
    for factor, at_lr, ratio in _PERMFL:
        pull = at_lr * (_LR / lr)
        team_pull = ratio * pull
        yield {
            "device_lr": factor * lr,
            "device_prox": pull,
            "team_prox": team_pull,
            "team_lr": 1 / (pull + team_pull),
            "server_lr": 1 / team_pull,
        }


def _ladder(lr: float) -> Iterator[Setting]:
    for factor in _EIGHT:
        yield {"device_lr": factor * lr}


def _times(name: str, *values: float) -> Callable[[float], Iterator[Setting]]:
    """Four step sizes times two values of another number."""

    def grid(lr: float) -> Iterator[Setting]:
        for factor in _FOUR:
            for value in values:
                yield {"device_lr": factor * lr, name: value}

    return grid


def _pulls(name: str, *values: float) -> Callable[[float], Iterator[Setting]]:
    """Four step sizes times two pulls, which go as the inverse of `--grid_lr`."""

    def grid(lr: float) -> Iterator[Setting]:
        return _times(name, *(value * (_LR / lr) for value in values))(lr)

    return grid


def _pfedme(lr: float) -> Iterator[Setting]:
    """η = 1/(2λ): half of the way from w_n to θ_n, as λ only bends the device steps."""
    for setting in _pulls("device_prox", 0.5, 5.0)(lr):
        yield {**setting, "local_lr": 0.5 / setting["device_prox"]}


def _ditto(lr: float) -> Iterator[Setting]:
    """One step size for both models."""
    for setting in _pulls("device_prox", 0.1, 1.0)(lr):
        yield {**setting, "personal_lr": setting["device_lr"]}


def _perfedavg(lr: float) -> Iterator[Setting]:
    return _times("adapt_lr", lr, 10 * lr)(lr)


def _finetune(lr: float) -> Iterator[Setting]:
    return _times("personal_lr", 0.5 * lr, 5 * lr)(lr)


def _al2gd(lr: float) -> Iterator[Setting]:
    """Devices' and teams' pulls alike."""
    for setting in _pulls("device_prox", 0.1, 1.0)(lr):
        yield {**setting, "team_prox": setting["device_prox"]}


def _pfedbayes(lr: float) -> Iterator[Setting]:
    """Adam's step size is that of the weights, whatever the data."""
    del lr
    for step in (0.002, 0.005, 0.02, 0.1):
        for weight in (0.1, 10.0):
            yield {"device_lr": step, "kl_weight": weight}


GRIDS: dict[str, Callable[[float], Iterator[Setting]]] = {
    "permfl": _permfl,
    "permfl_auto": _ladder,
    "fedavg": _ladder,
    "perfedavg": _perfedavg,
    "pfedme": _pfedme,
    "ditto": _ditto,
    "hsgd": _ladder,
    "fedprox": _pulls("device_prox", 0.01, 0.3),
    "scaffold": _ladder,
    "pfedbayes": _pfedbayes,
    "al2gd": _al2gd,
    "demlearn": _times("server_share", 0.3, 0.6),
    "ifca": _ladder,
    "local": _ladder,
    "pooled": _ladder,
    "finetune": _finetune,
}


def grid(method: str, lr: float, fixed: tuple[str, ...] = ()) -> tuple[Setting, ...]:
    """The settings of `method` that tuning tries, `BUDGET` of them.

    Args:
      method: its name.
      lr: `--grid_lr`.
      fixed: `name=value` of what the user set; no part of the grid.

    Raises:
      InputError: there is no grid for the method, or the user set what it varies.
    """
    if method not in GRIDS:
        raise InputError(
            f"--methods={method} has no grid to tune it by; add one to "
            "experiments/contests/grids.py, or choose --protocol=paper."
        )
    settings = tuple(GRIDS[method](lr))
    for text in fixed:
        name = text.partition("=")[0]
        if name in settings[0]:
            raise InputError(
                f"--hparam={method}.{text} sets what the fair protocol tunes "
                f"({', '.join(settings[0])}); leave it out, or choose "
                "--protocol=paper."
            )
    return settings


def checked(method: str, fixed: tuple[str, ...], setting: Setting) -> Any:
    """The method's hyper-parameters of one setting.

    Raises:
      InputError: a name that the method does not have, or a number out of range.
    """
    kind = algorithms.get(method).hparams
    try:
        texts = [f"{name}={value!r}" for name, value in setting.items()]
        return hparams.parse(kind, [*fixed, *texts])
    except InputError as error:
        raise InputError(f"{method}: {error}") from error


def on_edge(settings: tuple[Setting, ...], chosen: Setting) -> list[str]:
    """Names whose chosen value is the least or greatest of three or more tried.

    With two values each is an edge, which tells nothing.
    """
    names = []
    for name, value in chosen.items():
        tried = {setting[name] for setting in settings}
        if len(tried) > 2 and value in (min(tried), max(tried)):
            names.append(name)
    return names
