"""Who takes part in a sweep: seeds times the settings of a grid."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from permfl_jax import hparams
from permfl_jax.errors import InputError

MOST = 10_000  # members


class Members(NamedTuple):
    """All members of a sweep, R seeds times H settings.

    Attributes:
      seeds: R of them.
      axes: values of each hyper-parameter that the grid varies.
      settings: H of them, what each sets: the product of the axes.
      hparams: H of them, checked.
    """

    seeds: tuple[int, ...]
    axes: dict[str, tuple[float, ...]]
    settings: tuple[dict[str, float], ...]
    hparams: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.seeds) * len(self.settings)

    def describe(self) -> list[dict[str, Any]]:
        """Number, seed and setting of each, settings of one seed together."""
        pairs = itertools.product(self.seeds, self.settings)
        return [
            {"member": number, "seed": seed, "hparams": setting}
            for number, (seed, setting) in enumerate(pairs)
        ]


def members(
    method: type[Any], base: Sequence[str], seeds: Sequence[str], grid: Sequence[str]
) -> Members:
    """All members of `--seeds` and `--grid`.

    Args:
      method: hyper-parameters of the method, a dataclass.
      base: `--hparam`, for what the grid does not vary.
      seeds: texts of whole numbers.
      grid: `name=v1,v2,...`, one for each axis.

    Raises:
      InputError: a text that cannot be read, something given twice or not at all.
    """
    given = hparams.parse(method, base)  # its mistakes are told as --hparam's
    axes: dict[str, tuple[float, ...]] = {}
    for text in grid:
        name, equals, values = text.partition("=")
        if not equals:
            raise InputError(f"--grid={text} must read --grid=name=value,value,...")
        if name not in vars(given):
            raise InputError(
                f"--grid={text}: there is no hyper-parameter {name!r} here; choose "
                f"from {', '.join(vars(given))}."
            )
        if name in axes:
            raise InputError(f"--grid={text}: {name} is given twice.")
        axes[name] = _numbers(f"--grid={text}", values.split(","))
    chosen, number = read_seeds(seeds), math.prod(map(len, axes.values()))
    if number * len(chosen) > MOST:
        raise InputError(
            f"--seeds and --grid make {number * len(chosen)} members, {len(chosen)} "
            f"seeds of {number} settings; at most {MOST} can be trained together."
        )
    product = itertools.product(*axes.values())
    settings = tuple(dict(zip(axes, values, strict=True)) for values in product)
    return Members(
        seeds=chosen,
        axes=axes,
        settings=settings,
        hparams=tuple(method(**{**vars(given), **setting}) for setting in settings),
    )


def _numbers(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise InputError(f"{flag} must list finite numbers, such as 0.01,0.1.")
    _check_once(flag, values)
    return values


def read_seeds(texts: Sequence[str], flag: str = "seeds") -> tuple[int, ...]:
    """Seeds as whole numbers.

    Args:
      texts: as the user wrote them.
      flag: its name, for mistakes.

    Raises:
      InputError: none, not a whole number below 2^32, or one given twice.
    """
    flag = f"--{flag}={','.join(texts)}"
    try:
        values = tuple(int(text) for text in texts)
    except ValueError:
        values = ()
    if not values or not all(0 <= value < 2**32 for value in values):
        raise InputError(f"{flag} must list whole numbers, 0 to 4294967295.")
    _check_once(flag, values)
    return values


def _check_once(flag: str, values: Sequence[float]) -> None:
    seen: set[float] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{flag} gives {value:g} twice.")
        seen.add(value)
