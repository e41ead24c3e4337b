"""The only Python loop over global rounds."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import placement, tree
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.federation import num_devices, num_teams
from permfl_jax.types import Algorithm, Federation, Metrics, Params, State

TIERS = ("device", "team", "server")
# Metrics that tell whether a round diverged, and nothing about learning.
HEALTH = ("broken/", "first_broken/")


def start(algorithm: Algorithm, params: Params, federation: Federation) -> State:
    """The state before round 1, in buffers of its own (`run` gives them away)."""
    return _start(
        algorithm.init,
        params,
        num_devices(federation),
        num_teams(federation),
        federation.placement,
    )


# Compiled, so that each chip makes only the rows that it holds.
@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _start(init, params, devices, teams, where):
    return placement.constrain(init(params, devices, teams), where)


@functools.partial(
    jax.jit,
    static_argnames=("algorithm", "num_rounds"),
    donate_argnames=("state",),
)
def advance(
    algorithm: Algorithm,
    num_rounds: int,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
) -> tuple[State, Metrics]:
    """`num_rounds` global rounds in one call.

    Args:
      algorithm: static; the same object does not trace again.
      num_rounds: static, rounds scanned in this call.
      key: the key of the run.
      hparams: numbers of the method, traced.
      state: donated.
      federation: the data.

    Returns:
      The new state, and the metrics of each round, leaves `[num_rounds]`, with
      `broken/TIER` and `first_broken/TIER` for each tier that the method has: how many
      of its models are not finite, and the first of them.
    """

    def one(state, _):
        state, metrics = algorithm.round(key, hparams, state, federation)
        state = placement.constrain(state, federation.placement)
        for tier in TIERS:
            metrics |= _broken(tier, getattr(state, tier), federation.identity)
        return state, metrics

    return jax.lax.scan(one, state, length=num_rounds)


def _broken(tier, models, identity):
    if models is None:
        return {}
    if tier == "server":
        models = tree.stack(models, 1)
    bad = ~tree.finite_rows(models)
    numbers = jnp.arange(len(bad), dtype=jnp.uint32)
    if tier == "device":
        numbers = identity  # as the user counts them, not sorted by team
    # By a minimum, which chips send each other as one number.
    first = jnp.where(bad, numbers, jnp.uint32(2**32 - 1)).min()
    return {f"broken/{tier}": bad.sum(dtype=jnp.int32), f"first_broken/{tier}": first}


def planned_bytes(
    algorithm: Algorithm,
    num_rounds: int,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
) -> int:
    """Memory that `advance` needs on one chip, as XLA plans it; nothing is run.

    What is compiled is kept: the first `advance` with such arguments starts at once.

    Args:
      algorithm: see `advance`.
      num_rounds: see `advance`.
      key: see `advance`.
      hparams: see `advance`.
      state: see `advance`; not given away.
      federation: see `advance`.

    Returns:
      Bytes of samples, state and temporaries; 0 where XLA gives no plan.
    """
    call = advance.lower(algorithm, num_rounds, key, hparams, state, federation)
    return bytes_of(call.compile())


def bytes_of(call: jax.stages.Compiled) -> int:
    """Samples, state and temporaries on one chip; 0 where XLA gives no plan."""
    plan = call.memory_analysis()
    if plan is None:
        return 0
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes  # results that take the place of arguments
    )


def run(
    algorithm: Algorithm,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
    num_rounds: int,
    rounds_per_call: int = 1,
) -> Iterator[tuple[State, dict[str, np.ndarray]]]:
    """Yields the state and the metrics of the rounds just done, after each call.

    The yielded state is given away in the next step: use it before going on.

    Args:
      algorithm: the method.
      key: the key of the run, also when the state comes from round t > 0.
      hparams: numbers of the method.
      state: where to start; given away.
      federation: the data.
      num_rounds: how many more rounds.
      rounds_per_call: rounds scanned per call; must divide `num_rounds`.

    Raises:
      InputError: `rounds_per_call` does not divide `num_rounds`.
      DivergenceError: a model or a metric stopped being finite; nothing is yielded
        for that call.
    """
    check_calls(num_rounds, rounds_per_call)
    first = int(state.round) + 1
    for done in range(0, num_rounds, rounds_per_call):
        state, metrics = advance(
            algorithm, rounds_per_call, key, hparams, state, federation
        )
        host_metrics = placement.to_host(metrics)
        check_finite(first + done, host_metrics)
        yield state, host_metrics


def check_calls(num_rounds: int, rounds_per_call: int) -> None:
    """Raises `InputError` unless `rounds_per_call` divides `num_rounds`."""
    if rounds_per_call < 1 or num_rounds % rounds_per_call:
        raise InputError(
            f"--rounds_per_call={rounds_per_call} must divide the rounds between two "
            f"evaluations and the total; got {num_rounds}."
        )


def check_finite(first_round: int, metrics: dict[str, np.ndarray]) -> None:
    """Raises at the first round whose models or metrics are not finite.

    Args:
      first_round: number of the first round in `metrics`, counted from 1.
      metrics: leaves `[num_rounds]`.

    Raises:
      DivergenceError: naming round, tier and quantity.
    """
    bad = {name: _is_broken(name, values) for name, values in metrics.items()}
    rounds = [int(np.argmax(where)) for where in bad.values() if where.any()]
    if rounds:
        first = min(rounds)
        labels = [
            _label(name, first, metrics) for name, where in bad.items() if where[first]
        ]
        raise DivergenceError(
            f"Round {first_round + first} diverged: {', '.join(labels)} not finite; "
            "lower the step sizes (device_lr, team_lr, server_lr).",
            first_round + first,
        )


def _is_broken(name, values):
    """`[num_rounds]` bool; `first_broken` only says more about `broken`."""
    kind = name.split("/", 1)[0]
    if kind == "first_broken":
        return np.zeros(len(values), bool)
    return np.asarray(values) > 0 if kind == "broken" else ~np.isfinite(values)


def _label(name, index, metrics):
    kind, quantity = name.split("/", 1)
    if kind != "broken":
        return f"{kind} {quantity}"
    if quantity == "server":
        return "server model"
    number = int(metrics[name][index])
    first = int(metrics[f"first_broken/{quantity}"][index])
    which = f"{quantity} {first}"
    return f"{quantity} model ({number}, the first of {which})"
