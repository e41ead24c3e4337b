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


def require(name: str, value: float | None, *, above: float | None = None) -> None:
    """Checks one hyper-parameter: at least 0, or strictly above `above`.

    Raises:
      InputError: naming the parameter, its value and what is allowed.
    """
    if value is None:
        return
    if not abs(value) <= LARGEST:
        raise InputError(
            f"--hparam={name} must be a number of at most {LARGEST:g}, got {value}."
        )
    if above is not None and value <= above:
        raise InputError(f"--hparam={name} must be above {above:g}, got {value:g}.")
    if above is None and value < 0:
        raise InputError(f"--hparam={name} must be at least 0, got {value:g}.")
