"""`name=value` strings to the checked hyper-parameters of a method."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from permfl_jax.errors import InputError

LARGEST = 1e30  # well inside float32

T = TypeVar("T", bound=Any)


def parse(cls: type[T], settings: Iterable[str]) -> T:
    """Builds `cls` from `name=value` strings; what is not named keeps its default.

    Args:
      cls: a frozen dataclass of floats (or optional floats).
      settings: for instance `['device_lr=0.01', 'team_prox=1.5']`.

    Raises:
      InputError: not `name=value`, an unknown or repeated name, not a number.

    Examples:
      >>> from permfl_jax.algorithms.fedprox import HParams
      >>> parse(HParams, ['device_lr=0.5'])
      HParams(device_lr=0.5, device_prox=0.1)
      >>> parse(HParams, ['lr=0.5'])
      Traceback (most recent call last):
      permfl_jax.errors.InputError: --hparam=lr=0.5: there is no ...
    """
    allowed = [field.name for field in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--hparam={setting} must read --hparam=name=value.")
        if name not in allowed:
            raise InputError(
                f"--hparam={setting}: there is no hyper-parameter {name!r} here; "
                f"choose from {', '.join(allowed)}."
            )
        if name in values:
            raise InputError(f"--hparam={setting}: {name} is given twice.")
        values[name] = _number(setting, text)
    return cls(**values)


def _number(setting: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"--hparam={setting}: {text!r} is not a finite number.")
    return value


def require(
    name: str,
    value: float | None,
    *,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Checks one hyper-parameter: at least 0, or strictly above `above`.

    Args:
      name: of the hyper-parameter.
      value: `None` is always allowed.
      above: what it must be above, instead of at least 0.
      below: what it must be below, if anything.
      most: what it may be at most, if anything.

    Raises:
      InputError: naming the parameter, its value and what is allowed.
    """
    if value is None:
        return
    if not abs(value) <= LARGEST:
        raise InputError(
            f"--hparam={name} must be a number of at most {LARGEST:g}, got {value}."
        )
    fits = value >= 0 if above is None else value > above
    allowed = ["at least 0" if above is None else f"above {above:g}"]
    if below is not None:
        fits &= value < below
        allowed.append(f"below {below:g}")
    if most is not None:
        fits &= value <= most
        allowed.append(f"at most {most:g}")
    if not fits:
        raise InputError(
            f"--hparam={name} must be {' and '.join(allowed)}, got {value:g}."
        )
