"""Devices train a little, so that rules of team formation can tell them apart.

Nothing of it is kept: training begins anew from the initial model, in the teams that
were found.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import flat, hosts, keys, local, runner
from permfl_jax.algorithms import fedavg, ifca
from permfl_jax.cohort import Cohort
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.federation import num_devices
from permfl_jax.local import Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import StepSize
from permfl_jax.schedule import Schedule
from permfl_jax.teams.formation import Seen
from permfl_jax.types import Federation, LossFn, Params
from permfl_jax.uplink import upload_bytes

_UPDATE_ROUNDS, _CHOICE_ROUNDS = 1, 10
_COPIES = 7  # of each device's model at the rule's worst moment, in float32


class Probe(NamedTuple):
    """How devices train before they have teams.

    Attributes:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: L steps a round, and their batches; K does not count.
      params: the initial model.
      key: of the run.
      device_lr: α of plain SGD.
      rounds: of training; `None`: 1 for updates, 10 for losses.
      skip: mini-batches of each device that are left out before the last round.
    """

    loss_fn: LossFn
    schedule: Schedule
    params: Params
    key: jax.Array
    device_lr: float
    rounds: int | None = None
    skip: int = 0

    def look(self, sees: str, federation: Federation) -> Seen:
        """What a rule of formation is shown.

        Args:
          sees: `updates` or `losses`, as `Formation.sees`.
          federation: all devices, in teams of which the number counts alone.

        Raises:
          DivergenceError: training diverged.
          InputError: devices' models do not fit the memory.
        """
        look = {"updates": self._updates, "losses": self._losses}[sees]
        seen = look(federation)
        bad = int((~np.isfinite(seen.rows)).any(axis=1).sum())
        if bad:
            raise DivergenceError(
                f"--formation_lr={self.device_lr} made the models of {bad} of "
                f"{len(seen.rows)} devices infinite before they had teams; lower it."
            )
        return seen

    def _updates(self, federation):
        """The change of each device's model in the last of the rounds."""
        rounds = self.rounds or _UPDATE_ROUNDS
        devices, size = num_devices(federation), upload_bytes(None, self.params)
        there = hosts.memory()
        # Changes in float32, here and there, and in float64 centred and with a product.
        needed = _COPIES * devices * size
        if needed > there:
            raise InputError(
                f"--team_formation compares the models of {devices} devices, "
                f"{needed / 1e9:.3g} GB with copies, and this machine has "
                f"{there / 1e9:.3g}: take a smaller --model, or a rule by labels."
            )
        server = self._after(fedavg.fedavg, rounds - 1, federation).server
        rows = self._measured(_changes, rounds - 1, federation, server)
        return Seen(rows, rounds * devices * size, rounds * devices * size)

    def _losses(self, federation):
        """Of each device under M models that IFCA trained."""
        rounds = self.rounds or _CHOICE_ROUNDS
        devices, size = num_devices(federation), upload_bytes(None, self.params)
        models = self._after(ifca.ifca, rounds, federation).extra
        rows = self._measured(ifca.losses_under, rounds, federation, models)
        num_teams = rows.shape[1]
        up, down = rounds * size + 4 * num_teams, (rounds + 1) * num_teams * size
        return Seen(rows, devices * up, devices * down)

    def _after(self, factory, rounds, federation):
        """The state of a method after so many rounds, everyone acting."""
        algorithm = factory(self.loss_fn, self._once, Sampler.of(federation))
        state = runner.start(algorithm, self.params, federation)
        if rounds:
            state, _ = runner.advance(
                algorithm, rounds, self.key, self._rates, state, federation
            )
        return state

    @property
    def _once(self):
        """L steps a round."""
        return dataclasses.replace(self.schedule, team_steps=1, uplink=None)

    @property
    def _rates(self):
        return StepSize(device_lr=self.device_lr).traced()

    def _measured(self, measure, rounds, federation, models):
        """`[D, F]` in the round after so many, on the host."""
        first = self.skip + rounds * self.schedule.device_steps
        key = keys.batch_key(self.key)
        what = measure, self.loss_fn, self._once, key, self._rates, first
        return np.asarray(_of_all(*what, federation, models))


@functools.partial(jax.jit, static_argnames=("measure", "loss_fn", "schedule"))
def _of_all(measure, loss_fn, schedule, key, rates, first, federation, models):
    """What `measure` says of every device, from its `first` mini-batch on."""
    steps = Steps(loss_fn, schedule, key, rates, federation)
    cohort = Cohort.everyone(federation).as_one_team()
    cursor = jnp.full(federation.team.shape, first, jnp.int32)
    return measure(steps, cohort, cursor, models)


def _changes(steps, cohort, cursor, server):
    """`[D, P]`, of a model by the steps."""
    after, _ = local.train(steps, cohort, cursor, flat.to_all(server), None)
    moved = jax.tree.map(lambda y, x: y - x[None], after, server)
    flat_ = [x.reshape(len(x), -1) for x in jax.tree.leaves(moved)]
    return jnp.concatenate(flat_, axis=1)
