"""Which device broke first in a round that diverged.

A device that is not finite makes its team's mean so, and in the next of the K team
rounds every device: at the end of the round all are broken. So the round is computed
again, from the last state that was saved, with fewer team rounds. Methods that keep no
device's model are asked whose training loss was not finite before that round.
"""

import dataclasses
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import evaluate, placement, runner
from permfl_jax.types import State

from .experiment import Experiment


def last_finite(
    built: Experiment, saved: State, round_: int, keep: Callable[[State], None]
) -> State:
    """The state before the round that diverged, computed again.

    Args:
      built: the experiment after `spread`.
      saved: a state before the round; given away.
      round_: the one that diverged, counted from 1.
      keep: given the last state from which the run can go on, at most as many rounds
        before it as there are in a call.
    """
    last = int(saved.round)
    print(f"finding what broke first, from round {last} on", file=sys.stderr)
    per_call = built.config.rounds_per_call
    between = (round_ - 1) // per_call * per_call
    state = _advanced(built, saved, max(between - last, 0))
    keep(state)
    return _advanced(built, state, round_ - 1 - int(state.round))


def _advanced(built, state, rounds):
    key, traced = jax.random.key(built.config.seed), built.hparams.traced()
    for later, _ in runner.run(
        built.algorithm, key, traced, state, built.federation, rounds
    ):
        state = later
    return state


def sentence(built: Experiment, state: State) -> str:
    """Names the device and the steps in which it broke; "" if that cannot be told.

    Args:
      built: the experiment after `spread`.
      state: just before the round that diverged.
    """
    low, number, first = _first_broken(built, state)
    everyone = len(built.federation.identity)
    if not number or number == everyone > 1:
        return _bad_loss(built, state) or (
            f"All {everyone} devices broke at once." if number else ""
        )
    steps = built.schedule.device_steps
    when = f", in steps {(low - 1) * steps + 1} to {low * steps} of that round"
    # Where several gradients are taken on a batch, fewer team rounds have other steps.
    when = when if built.method.batch == 1 else ""
    return f"The first to break was device {first} ({number} at once){when}."


def _first_broken(built, state):
    """After how many team rounds, how many devices, and the first of them."""
    key, traced = jax.random.key(built.config.seed), built.hparams.traced()

    def broken(team_rounds):
        algorithm = _shorter(built, team_rounds)
        copy = jax.tree.map(jnp.copy, state)
        _, metrics = runner.advance(algorithm, 1, key, traced, copy, built.federation)
        found = placement.to_host(metrics)
        names = ("broken/device", "first_broken/device")
        return tuple(int(found[name][0]) if name in found else 0 for name in names)

    low, high = 1, built.schedule.team_steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if broken(middle)[0] else (middle + 1, high)
    return low, *broken(low)


def _bad_loss(built, state):
    """Whose training loss is not finite even by the model before the round."""
    tier = "team" if state.team is not None else "server"
    if getattr(state, tier) is None:
        return ""
    evaluator = evaluate.Evaluator(built.task.metrics, built.federation)
    scores = evaluator.scores(tier, getattr(state, tier), ("train",))["train"]
    bad = np.flatnonzero(~np.isfinite(scores.total["loss"]))
    if not bad.size:
        return ""
    identity = placement.to_host(built.federation.identity)
    return (
        f"By the {tier} model before that round, the training loss of device "
        f"{identity[bad].min()} is not finite ({bad.size} such devices)."
    )


def _shorter(built, team_rounds):
    schedule = dataclasses.replace(built.schedule, team_steps=team_rounds)
    return built.method.factory(built.task.loss, schedule, built.sampler)
