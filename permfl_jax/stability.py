"""Which step size is too long, by the exact maps of rounds on quadratics.

A loop that begins anew from the model above may overshoot and still leave nothing that
grows; what grows is what a whole global round multiplies by more than 1.
"""

from typing import NamedTuple

import numpy as np

from permfl_jax import theory
from permfl_jax.theory import Curvature, Settings

# Curvature below this part of the largest is not looked at: there steps are short.
_FLAT = 1e-4
_PLACES = 200


class Level(NamedTuple):
    """One level's step size, beside a curvature that it is too long for.

    Attributes:
      name: of the hyper-parameter.
      letter: as the paper calls it.
      step: its value.
      curvature: that the level meets, of the loops below as they are run; the step is
        at least 2 over it.
      where: h, of the devices' losses.
      grows: whether global rounds diverge. If not, only a longer loop of the level
        would: it begins anew from the model above in each round.
    """

    name: str
    letter: str
    step: float
    curvature: float
    where: float
    grows: bool


def unstable_level(ends: Curvature, settings: Settings, pull: float) -> Level | None:
    """The lowest level whose steps are too long; `None` if none are.

    A round multiplies what lies along curvature h by 1 - βγ·b_KL(h), exactly on a
    quadratic. Near the limits a_L and b_KL do not rise with h, so all of the interval
    is looked at, not its end. With short loops below, the limit of the server is
    higher than 2/L_F.

    Args:
      ends: of the curvature of the devices' losses.
      settings: all numbers.
      pull: λ of the device steps.
    """
    found = [
        level
        for h in _between(ends)
        if (level := _too_long(h, settings, pull)) is not None
    ]
    order = ("device_lr", "team_lr", "server_lr")
    return min(
        found,
        key=lambda it: (not it.grows, order.index(it.name), -it.curvature),
        default=None,
    )


def _between(ends):
    """From end to end, dense where steps are long and where they are short."""
    least = max(ends.low, _FLAT * ends.high)
    if not 0 < least < ends.high:
        return [ends.high]
    inner = (
        np.geomspace(least, ends.high, _PLACES),
        np.linspace(ends.low, ends.high, _PLACES),
    )
    return np.concatenate(inner)


def _too_long(h, settings, pull):
    """The lowest level with step · curvature of 2 or more at h."""
    with np.errstate(over="ignore", invalid="ignore"):  # endless shares are judged
        lifted = settings.device_prox * theory.device_share(
            np.float64(h), settings.device_lr, pull, settings.device_steps
        )
        share = theory.team_share(
            lifted, settings.team_lr, settings.team_prox, settings.team_steps
        )
        factor = 1 - settings.server_lr * settings.team_prox * share
        met = (h + pull, settings.team_prox + lifted, settings.team_prox * share)
    steps = (settings.device_lr, settings.team_lr, settings.server_lr)
    names = (("device_lr", "α"), ("team_lr", "η"), ("server_lr", "β"))
    for name, step, curvature in zip(names, steps, met, strict=True):
        if not step * curvature < 2:
            grows = not abs(factor) <= 1
            return Level(*name, step, float(curvature), float(h), grows)
    return None
