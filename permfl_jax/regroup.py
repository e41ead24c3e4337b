"""Teams that are formed anew while training, when they no longer fit.

After a warm-up, and then every so many rounds, all devices take a round's steps of
plain SGD from the global model of the moment, and a rule of formation that compares
updates proposes teams. They are taken if the updates spread enough less within them
than within the present ones: the gate. A device that moves takes along its model and
its place in its stream of mini-batches; a team starts from the mean of the team models
that its devices had. Team sizes stay, so rounds are not compiled anew.

The look costs two models each way for each device: teams are proposed by one update and
judged by another, of the mini-batches after it. Judged by the update that they were
fitted to, even devices that are all alike seem to gain a fifth. Where every batch holds
all samples there is no other update, and the gate guards against nothing. Updates are
taken at one common point, not from models that are pulled to the present teams: only so
can a device leave.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import runner
from permfl_jax.errors import InputError
from permfl_jax.federation import team_sizes
from permfl_jax.probes import Probe
from permfl_jax.teams.formation import Formation
from permfl_jax.types import Algorithm, Federation, Samples, State


class Look(NamedTuple):
    """What one look at the devices found.

    Attributes:
      round: t, global rounds that were done.
      gain: by which share the updates spread less in the teams that were proposed.
      taken: these are the teams now.
      up: bytes that all devices sent for it.
      down: bytes that they were sent.
    """

    round: int
    gain: float
    taken: bool
    up: int
    down: int


class Regrouping(NamedTuple):
    """When teams are looked at, how they are proposed, and when they are taken.

    Attributes:
      formation: a rule that `sees` updates.
      probe: how devices take their steps; its `params` give way to the global model.
      after: rounds of warm-up before the first look.
      every: rounds between looks.
      gate: the least `gain` that is worth moving for, 0 to 1.
      seed: of what the rule draws.
    """

    formation: Formation
    probe: Probe
    after: int
    every: int
    gate: float
    seed: int

    def check(self) -> None:
        """Raises `InputError` unless numbers and rule can be used."""
        if self.after < 0 or self.every < 1 or not 0 <= self.gate <= 1:
            raise InputError(
                f"regrouping takes after >= 0, every >= 1 and a gate from 0 to 1; got "
                f"{self.after}, {self.every} and {self.gate}."
            )
        if self.formation.sees != "updates":
            raise InputError("regrouping takes update_cosine or model_distance alone.")

    def due(self, done: int) -> bool:
        """Whether there is a look after so many rounds."""
        return done >= self.after and (done - self.after) % self.every == 0

    def next_look(self, done: int) -> int:
        """The first round after `done` that is followed by a look."""
        if done < self.after:
            return self.after
        return done + self.every - (done - self.after) % self.every

    def look(
        self, state: State, federation: Federation
    ) -> tuple[State, Federation, Look]:
        """Proposes teams, and takes them if they are better by the gate.

        Args:
          state: of a method with a global model and team models.
          federation: on one chip.

        Raises:
          DivergenceError: a device's steps from the global model are not finite.
          InputError: several chips, coded uploads, a rule that sees no updates.
        """
        self._check(state, federation)
        done, sizes = int(state.round), team_sizes(federation)
        seen, other = self._updates(state, federation)
        rng = np.random.default_rng([self.seed, done])
        team = self.formation.assign(rng, seen.rows, sizes)
        before = _spread(other.rows, np.asarray(federation.team))
        gain = 1 - _spread(other.rows, team) / before if before > 0 else 0.0
        taken = gain > self.gate
        if taken:
            state, federation = into(state, federation, team)
        sent = seen.up + other.up, seen.down + other.down
        return state, federation, Look(done, gain, taken, *sent)

    def _updates(self, state, federation):
        """Two of each device, by mini-batches that follow each other."""
        steps = self.probe.schedule.device_steps
        first = 2 * steps * int(state.round)
        probe = self.probe._replace(params=state.server)
        return [
            probe._replace(skip=skip).look("updates", federation)
            for skip in (first, first + steps)
        ]

    def _check(self, state, federation):
        self.check()
        if federation.placement.mesh is not None:
            raise InputError("regrouping moves devices on one chip alone: --chips=1.")
        if jax.tree.leaves(state.uploads):
            raise InputError("regrouping cannot move what coded uploads left out.")


def run(
    algorithm: Algorithm,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
    num_rounds: int,
    regrouping: Regrouping,
) -> tuple[State, Federation, list[Look]]:
    """Trains up to round `num_rounds`.

    Args:
      algorithm: a method with a global model and team models.
      key: the key of the run.
      hparams: numbers of the method.
      state: where to start; given away.
      federation: its teams are those of the warm-up.
      num_rounds: T, of the whole run.
      regrouping: when and how.

    Returns:
      The state, the federation in its last teams, and what each look found.

    Raises:
      DivergenceError: a model or a metric stopped being finite.
      InputError: what `Regrouping.look` refuses; too many devices.
    """
    regrouping.check()
    regrouping.formation.check(team_sizes(federation))
    looks: list[Look] = []
    while (done := int(state.round)) < num_rounds:
        if regrouping.due(done):
            state, federation, look = regrouping.look(state, federation)
            looks.append(look)
        count = min(regrouping.next_look(done), num_rounds) - done
        ((state, _),) = runner.run(
            algorithm, key, hparams, state, federation, count, rounds_per_call=count
        )
    return state, federation, looks


def into(
    state: State, federation: Federation, team: np.ndarray
) -> tuple[State, Federation]:
    """Devices in other teams of the same sizes.

    Args:
      state: with team models, without coded uploads.
      federation: on one chip.
      team: `[D]`, the new team of each device, in the federation's order.

    Returns:
      Both, in the order of the new teams.
    """
    order = np.argsort(team, kind="stable")
    rows = jnp.asarray(order)

    def moved(tree):
        return jax.tree.map(lambda x: x[rows], tree)

    def samples(part: Samples) -> Samples:
        return dataclasses.replace(
            part, start=moved(part.start), count=moved(part.count)
        )

    extra = state.extra
    # A field; every array has an attribute of that name.
    if "device" in getattr(extra, "_fields", ()):
        extra = extra._replace(device=moved(extra.device))
    came_from = np.asarray(federation.team)[order]
    sizes = team_sizes(federation)
    share = np.zeros((len(sizes), len(sizes)))
    np.add.at(share, (np.repeat(np.arange(len(sizes)), sizes), came_from), 1)
    share /= share.sum(axis=1, keepdims=True)

    def means(x):
        weights = jnp.asarray(share, x.dtype)
        return jnp.tensordot(weights, x, axes=1, precision="highest")

    state = state._replace(
        cursor=moved(state.cursor),
        device=moved(state.device),
        team=jax.tree.map(means, state.team),
        extra=extra,
    )
    federation = dataclasses.replace(
        federation,
        train=samples(federation.train),
        validation=samples(federation.validation),
        test=samples(federation.test),
        identity=moved(federation.identity),
    )
    return state, federation


def _spread(rows, team):
    """Sum of squared distances to the means of teams."""
    total = 0.0
    for i in np.unique(team):
        own = rows[team == i].astype(np.float64)
        total += float(((own - own.mean(axis=0, keepdims=True)) ** 2).sum())
    return total
