"""The loop over rounds with every operation watched: slower, and it names the first
that gave NaN, or divided by zero."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import checkify

from permfl_jax import placement, runner
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.types import Algorithm, Federation, State

_ERRORS = checkify.float_checks


def run(
    algorithm: Algorithm,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
    num_rounds: int,
    rounds_per_call: int = 1,
) -> Iterator[tuple[State, dict[str, np.ndarray]]]:
    """As `runner.run`, whose arguments and results these are.

    Raises:
      InputError: the federation is spread over several chips.
      DivergenceError: naming the round, or rounds of a call, and the operation.
    """
    runner.check_calls(num_rounds, rounds_per_call)
    if federation.placement.mesh is not None:
        raise InputError("--checks watches one chip; add --chips=1.")
    first = int(state.round) + 1
    for done in range(first, first + num_rounds, rounds_per_call):
        error, (state, metrics) = _advance(
            algorithm, rounds_per_call, key, hparams, state, federation
        )
        if found := error.get():
            last = done + rounds_per_call - 1
            rounds = f"Round {done}" if last == done else f"One of rounds {done}-{last}"
            raise DivergenceError(
                f"{rounds} diverged, as --checks saw: {' '.join(found.split())}"
            )
        host_metrics = placement.to_host(metrics)
        runner.check_finite(done, host_metrics)
        yield state, host_metrics


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advance(algorithm, num_rounds, key, hparams, state, federation):
    def rounds(key, hparams, state, federation):
        return runner.advance(algorithm, num_rounds, key, hparams, state, federation)

    watched = checkify.checkify(rounds, errors=_ERRORS)
    return watched(key, hparams, state, federation)
