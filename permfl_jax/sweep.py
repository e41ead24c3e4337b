"""Many runs in one program: seeds and hyper-parameters as two more `vmap` axes.

Axis letters, beside those of `permfl_jax.types`:

  R  seeds
  H  settings of the hyper-parameters

A sweep has R·H members. Settings under one seed share its draws: who takes part and
which samples a batch holds are found, and the samples fetched, once for all H.

On several chips, devices are divided as for one run (`permfl_jax.placement`), each chip
with its devices of all members. Dividing members instead would copy all samples to
every chip and need as many members as chips; on two it was no faster (within 6 %).
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import placement, runner
from permfl_jax.errors import DivergenceError
from permfl_jax.types import Algorithm, Federation, Metrics, Params, State

_SAME: Any = None
_OWN: Any = 0
# What a method counts hangs on the seed alone, whatever its hyper-parameters.
_SETTINGS = State(
    round=_SAME,
    cursor=_SAME,
    device=_OWN,
    team=_OWN,
    server=_OWN,
    extra=_OWN,
    uploads=_OWN,
)
_SEEDS = _SETTINGS._replace(cursor=_OWN)

# (number of the seed, number of the setting) to what became infinite, and when.
Ended = dict[tuple[int, int], str]


def start_many(
    algorithm: Algorithm, params: Params, num_settings: int, federation: Federation
) -> State:
    """The states before round 1.

    Args:
      algorithm: the method.
      params: leaves `[R, ...]`, the initial model of each seed.
      num_settings: H.
      federation: the data, the same for all.

    Returns:
      A state with leaves `[R, H, ...]`, except `round` `[]` and `cursor` `[R, D]`.
    """

    def one(params):
        return runner.start(algorithm, params, federation)

    settings = jax.vmap(one, in_axes=None, out_axes=_SETTINGS, axis_size=num_settings)
    return jax.vmap(settings, out_axes=_SEEDS)(params)


@functools.partial(
    jax.jit,
    static_argnames=("algorithm", "num_rounds"),
    donate_argnames=("state",),
)
def advance_many(
    algorithm: Algorithm,
    num_rounds: int,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
) -> tuple[State, Metrics]:
    """`num_rounds` global rounds of all members in one call; see `runner.advance`.

    Args:
      algorithm: static.
      num_rounds: static.
      key: `[R]`, the keys of the runs.
      hparams: leaves `[H]`, numbers of the method, traced.
      state: from `start_many`; donated.
      federation: the data, the same for all.

    Returns:
      The new state, and the metrics, leaves `[R, H, num_rounds]`.
    """

    def one(key, hparams, state):
        return runner.advance(algorithm, num_rounds, key, hparams, state, federation)

    settings = jax.vmap(one, (None, 0, _SETTINGS), (_SETTINGS, 0))
    return jax.vmap(settings, (0, None, _SEEDS), (_SEEDS, 0))(key, hparams, state)


def run_many(
    algorithm: Algorithm,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
    num_rounds: int,
    rounds_per_call: int = 1,
) -> Iterator[tuple[State, dict[str, np.ndarray], Ended]]:
    """Yields the state, the metrics of the rounds just done, and who has diverged.

    As `runner.run`, but a member that diverges does not stop the others: its numbers
    mean nothing from then on. Stops early only when all have diverged.

    Args:
      algorithm: the method.
      key: `[R]`.
      hparams: leaves `[H]`.
      state: from `start_many`; given away.
      federation: the data.
      num_rounds: how many more rounds.
      rounds_per_call: rounds scanned per call; must divide `num_rounds`.

    Raises:
      InputError: `rounds_per_call` does not divide `num_rounds`.
    """
    runner.check_calls(num_rounds, rounds_per_call)
    first = int(state.round) + 1
    ended: Ended = {}
    for done in range(0, num_rounds, rounds_per_call):
        state, metrics = advance_many(
            algorithm, rounds_per_call, key, hparams, state, federation
        )
        host_metrics = placement.to_host(metrics)
        members = next(iter(host_metrics.values())).shape[:2]
        for member in set(np.ndindex(members)) - ended.keys():
            try:
                own = {name: values[member] for name, values in host_metrics.items()}
                runner.check_finite(first + done, own)
            except DivergenceError as error:
                ended[member] = str(error)
        yield state, host_metrics, dict(ended)
        if len(ended) == members[0] * members[1]:
            return


def member_of(state: State, seed: int, setting: int, federation: Federation) -> State:
    """One member's own state, as `runner.run` would have left it.

    Args:
      state: of all members.
      seed: its number, below R.
      setting: its number, below H.
      federation: the data.
    """
    return _member_of(state, jnp.int32(seed), jnp.int32(setting), federation.placement)


@functools.partial(jax.jit, static_argnums=3)
def _member_of(state, seed, setting, where):
    own = jax.tree.map(
        lambda x: x[seed, setting], state._replace(round=None, cursor=None)
    )
    own = own._replace(round=state.round, cursor=state.cursor[seed])
    return placement.constrain(own, where)
