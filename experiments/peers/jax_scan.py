"""As `jax_loop`, but a jitted call runs all L steps: kinder than FedJAX is."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from permfl_jax.types import LossFn

from . import Device, Peer, Setting, jax_loop


def build(
    setting: Setting,
    params: Any,
    train: Sequence[Device],
    test: Sequence[Device],
    teams: Sequence[int],
) -> Peer:
    """The peer; see `experiments.peers.PEERS`."""
    return jax_loop.Loop(_scan, setting, params, train, test, teams).peer()


def _scan(setting: Setting, loss_fn: LossFn) -> jax_loop.Descend:
    """The L batches of an exchange are cut and handed over together."""
    step = jax_loop.step_of(setting, loss_fn)

    @jax.jit
    def steps(w, batches, number):
        def one(carry, batch):
            return step(w, carry, batch), None

        (theta, _), _ = jax.lax.scan(one, (w, jax.random.key(number)), batches)
        return theta

    def descend(w, samples, places, number):
        return steps(w, jax_loop.cut(samples, np.stack(list(places))), number)

    return descend
