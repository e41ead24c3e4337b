"""Which device broke first in a round that diverged.

A device that is not finite makes its team's mean so, and in the next of the K team
rounds every device: at the end of the round all are broken. So the round is computed
again, from the last state that was saved, with fewer team rounds.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp

from permfl_jax import placement, runner
from permfl_jax.types import State

from .experiment import Experiment


def sentence(built: Experiment, saved: State, round_: int) -> str:
    """Names the device and the steps in which it broke; "" if no device's model did.

    Args:
      built: the experiment after `spread`.
      saved: a state before the round; given away.
      round_: the one that diverged, counted from 1.
    """
    last = int(saved.round)
    print(f"finding what broke first, from round {last} on", file=sys.stderr)
    key, traced = jax.random.key(built.config.seed), built.hparams.traced()
    state = saved
    for state, _ in runner.run(  # noqa: B007, the last is what counts
        built.algorithm, key, traced, saved, built.federation, round_ - 1 - last
    ):
        pass

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
    number, first = broken(low)
    if not number:
        return ""
    steps = built.schedule.device_steps
    return (
        f"The first to break was device {first} ({number} at once), in steps "
        f"{(low - 1) * steps + 1} to {low * steps} of that round."
    )


def _shorter(built, team_rounds):
    schedule = dataclasses.replace(built.schedule, team_steps=team_rounds)
    return built.method.factory(built.task.loss, schedule, built.sampler)
