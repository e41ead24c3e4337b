"""Every method, by name. One file and one line here add another."""

from collections.abc import Callable
from typing import Any, NamedTuple

from permfl_jax import advice
from permfl_jax.algorithms.local import HParams as _LocalHParams
from permfl_jax.algorithms.local import local
from permfl_jax.algorithms.permfl import HParams as _PerMFLHParams
from permfl_jax.algorithms.permfl import permfl
from permfl_jax.errors import InputError
from permfl_jax.types import Algorithm


class Method(NamedTuple):
    """What the registry knows of a method.

    Attributes:
      factory: `(loss_fn, schedule, sampler) -> Algorithm`.
      hparams: a frozen dataclass of numbers, with `traced()`.
      advise: `(hparams, schedule, num_rounds, measured, l2) -> [str]`, warnings before
        a run, or `None` if the method has no theory to check against.
    """

    factory: Callable[..., Algorithm]
    hparams: type[Any]
    advise: Callable[..., list[str]] | None = None


ALGORITHMS: dict[str, Method] = {
    "local": Method(local, _LocalHParams),
    "permfl": Method(permfl, _PerMFLHParams, advice.three_tier),
}


def get(name: str) -> Method:
    """The method called `name`.

    Raises:
      InputError: no such method.
    """
    if name not in ALGORITHMS:
        raise InputError(
            f"--algorithm={name} is unknown; choose from {', '.join(ALGORITHMS)}."
        )
    return ALGORITHMS[name]
