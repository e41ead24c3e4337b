"""A finished run: its models, its test samples, and what newcomers do."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import deploy
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.types import Params, State

from . import experiment
from .sample_files import Form, SampleSet

_KINDS = ("device", "adapted", "team")


class Finished(NamedTuple):
    """A run and its state.

    Attributes:
      built: the experiment of its flags, rebuilt.
      state: after the last round that was saved.
    """

    built: experiment.Experiment
    state: State

    @property
    def apply(self) -> deploy.Apply:
        """`(params, x) -> logits`, of samples before scaling."""
        logits = self.built.task.logits
        assert logits is not None  # the tasks of the programs have them
        return logits

    @property
    def form(self) -> Form:
        """What its samples look like."""
        x = self.built.federation.train.pool["x"]
        key = jax.random.key(0)
        logits = jax.eval_shape(lambda: self.apply(self.built.task.init(key), x[:1]))
        return Form(x.shape[1:], np.dtype(x.dtype), logits.shape[1])

    @property
    def key(self) -> jax.Array:
        """Of the run."""
        return jax.random.key(self.built.config.seed)

    def chosen(self, flag: str, text: str) -> tuple[str, int]:
        """Kind and number of `device:3`, `adapted:3`, `team:1` or `server`.

        Args:
          flag: that it was given to.
          text: as it was given.

        Raises:
          InputError: it is none of these, or there is no such device or team.
        """
        if text == "server":
            return "server", 0
        match = re.fullmatch(rf"({'|'.join(_KINDS)}):([0-9]{{1,9}})", text)
        if match is None:
            raise InputError(
                f"{flag}={text} must be device:N, adapted:N, team:N or server."
            )
        kind, number = match[1], int(match[2])
        sizes = self.built.config.team_sizes
        what, most = ("team", len(sizes)) if kind == "team" else ("device", sum(sizes))
        if number >= most:
            raise InputError(
                f"{flag}={text} was given, but the run has {what}s 0 to {most - 1}."
            )
        return kind, number

    def model(self, flag: str, text: str) -> Params:
        """The numbers of one of the run's models.

        Args:
          flag: that named it.
          text: what it was given, see `chosen`.

        Raises:
          InputError: there is no such model.
        """
        kind, number = self.chosen(flag, text)
        if kind == "device" and self.state.device is None:
            kind = "adapted"
        if kind == "adapted":
            return self._adapted(flag, text, number)
        model = getattr(self.state, kind)
        if model is None:
            raise self._lacks(flag, text, kind)
        if kind == "server":
            return model
        row = number if kind == "team" else self._row(number)
        return jax.tree.map(lambda x: x[row], model)

    def _row(self, number):
        """Where a device stands among those sorted by team."""
        return int(np.argmax(np.asarray(self.built.federation.identity) == number))

    def _adapted(self, flag, text, number):
        personalize = self.built.algorithm.personalize
        if personalize is None:
            raise self._lacks(flag, text, text.partition(":")[0])
        row = self._row(number)
        federation = self.built.federation
        cohort = Cohort(jnp.asarray([row], jnp.int32), federation.team[row][None], None)
        traced = self.built.hparams.traced()
        adapt = jax.jit(personalize)
        adapted = adapt(self.key, traced, self.state, federation, cohort)
        return jax.tree.map(lambda x: x[0], adapted)

    def _lacks(self, flag, text, kind):
        name = self.built.config.algorithm
        words = {"server": "global model", "team": "team models"}
        what = words.get(kind, "models of devices" if kind == "device" else kind)
        if kind == "adapted":
            what = "models of devices that are adapted from others"
        return InputError(f"{flag}={text}: --algorithm={name} has no {what}.")

    def own_samples(self, text: str) -> SampleSet:
        """Test samples of a device, of the devices of a team, or of all."""
        kind, number = self.chosen("--model_of", text)
        test, team = self.built.federation.test, np.asarray(self.built.federation.team)
        rows = {
            "server": range(len(team)),
            "team": np.flatnonzero(team == number),
        }.get(kind, [self._row(number)])
        start, count = np.asarray(test.start), np.asarray(test.count)
        place = np.concatenate([start[d] + np.arange(count[d]) for d in rows])
        if not len(place):
            raise InputError(
                f"--model_of={text} has no test samples in the run; give --input."
            )
        x, y = (np.asarray(test.pool[name])[place] for name in ("x", "y"))
        return SampleSet(x, y.astype(np.int32))

    def start(self, text: str) -> tuple[Params, str]:
        """The model that a new device starts from, and a name for it.

        Methods without team models start from the global model.

        Args:
          text: `team:N` or `server`.

        Raises:
          InputError: it is neither, or the method has neither.
        """
        kind, _ = self.chosen("--from", text)
        if kind not in ("team", "server"):
            raise InputError(f"--from={text} must be team:N or server.")
        if self.state.team is None and self.state.server is None:
            raise InputError(
                f"--algorithm={self.built.config.algorithm} has neither team models "
                "nor a global model for a new device to start from."
            )
        if kind == "team" and self.state.team is None:
            return self.model("--from", "server"), "server (there are no team models)"
        return self.model("--from", text), text

    def personalised(
        self, start: Params, samples: SampleSet, steps: int | None = None
    ) -> Params:
        """A new device, by the method's rule if it has one, else by proximal steps.

        Args:
          start: from `start` or `new_team`.
          samples: with labels.
          steps: instead of L.

        Raises:
          InputError: `steps` is out of range.
        """
        built, batch = self.built, samples._asdict()
        schedule = built.schedule
        if steps is not None:
            schedule = dataclasses.replace(schedule, device_steps=steps)
        algorithm = self._alone(schedule)
        if algorithm is not None:
            traced = built.hparams.traced()
            return deploy.personalise_by(algorithm, traced, start, batch, key=self.key)
        rates = built.hparams
        return deploy.personalise(
            built.task.loss,
            start,
            batch,
            steps=schedule.device_steps,
            lr=getattr(rates, "personal_lr", rates.device_lr),
            prox=getattr(rates, "device_prox", 0.0),
            batch_size=schedule.batch_size,
            batching=schedule.batching,
            key=self.key,
        )

    def _alone(self, schedule):
        """The method as it is when it makes models of devices anew; else `None`."""
        try:
            schedule = dataclasses.replace(schedule, keep_personal=False, uplink=None)
            factory = self.built.method.factory
            algorithm = factory(self.built.task.loss, schedule, Sampler((1,)))
        except InputError:  # its devices go on from models of their own
            return None
        return None if algorithm.personalize is None else algorithm

    def new_team(self, devices: Sequence[SampleSet]) -> deploy.NewTeam:
        """The models of a team that was not in the run, from the global model.

        Args:
          devices: samples with labels, of each device.

        Raises:
          InputError: the method has no team models.
        """
        built = self.built
        if self.state.team is None or self.state.server is None:
            raise InputError(
                f"--new_team needs a method with team models and a global one, which "
                f"--algorithm={built.config.algorithm} has not."
            )
        return deploy.new_team(
            built.method.factory,
            built.task.loss,
            built.schedule,
            built.hparams.traced(),
            self.state.server,
            [device._asdict() for device in devices],
            key=self.key,
        )
