"""A method on a team that it has not seen: its global model, and a round there."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax

from permfl_jax import evaluate, keys, runner
from permfl_jax import federation as federations
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.types import Algorithm

from .. import experiment
from ..config import Config
from ..members import Members
from . import one_by_one


def check(config: Config, num_teams: int) -> None:
    """Whether a team can be left out.

    Raises:
      InputError: no team is left to be left out, or only some teams act.
    """
    if config.teams_per_round is not None:
        raise InputError("a team is left out: --teams_per_round cannot be used.")
    total = len(config.team_sizes)
    if num_teams >= total:
        raise InputError(
            f"{num_teams} teams are trained on beside one that is left out, but "
            f"there are {total}: raise --num_teams."
        )


class Unseen:
    """All members, ready to run; scored on the team that each leaves out.

    Seed s leaves out team s (modulo their number) and trains on the `num_teams` after
    it, so that arms with other numbers of teams are scored on the same devices.

    Attributes:
      built: the experiment that they share, on one chip, with a team more than are
        trained on, or several.
      who: the members.
      num_teams: that are trained on.
    """

    def __init__(self, built: experiment.Experiment, who: Members, num_teams: int):
        """Nothing is trained yet.

        Raises:
          InputError: no team is left to be left out, or only some teams act.
        """
        check(built.config, num_teams)
        self.built, self.who, self.num_teams = built, who, num_teams
        self._algorithms: dict[Sampler, Algorithm] = {}

    def train(
        self, splits: Sequence[str] = evaluate.SPLITS
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yields the last round and a row for each member.

        GM is the global model as it is; TM and PM are those that one global round makes
        of it in the new team, which moves no global model.

        Args:
          splits: to score.
        """

        def run(seed, hparams):
            return self._run(seed, hparams, splits)

        sizes = federations.team_sizes(self.built.federation)[: self.num_teams]
        trained_on = self.built._replace(sampler=self._sampler(sizes))
        yield from one_by_one.train(trained_on, self.who, run)

    def _run(self, seed, hparams, splits):
        built, key, numbers = self.built, jax.random.key(seed), hparams.traced()
        total = federations.num_teams(built.federation)
        own = [(seed + 1 + i) % total for i in range(self.num_teams)]
        trained_on = federations.of_teams(built.federation, own)
        new = federations.of_teams(built.federation, [seed % total])
        server = self._train(key, numbers, trained_on)
        algorithm = self._algorithm(new)
        state = runner.start(algorithm, server, new)
        ((state, _),) = runner.run(algorithm, key, numbers, state, new, 1)
        models = evaluate.models_of(algorithm, key, numbers, state, new)
        if "GM" in models:
            models["GM"] = ("server", server)
        return evaluate.Evaluator(built.task.metrics, new).rows(models, splits)

    def _train(self, key, numbers, federation):
        """The global model, leaves `[...]`."""
        built, algorithm = self.built, self._algorithm(federation)
        params = built.task.init(keys.init_key(key))
        state = runner.start(algorithm, params, federation)
        rounds = built.config.num_rounds
        for now, _ in runner.run(algorithm, key, numbers, state, federation, rounds):
            state = now
        return state.server

    def _sampler(self, sizes):
        return Sampler(sizes, None, self.built.config.devices_per_round)

    def _algorithm(self, federation):
        """The same object for alike teams, which is compiled once."""
        built, sampler = self.built, self._sampler(federations.team_sizes(federation))
        if sampler not in self._algorithms:
            made = built.method.factory(built.task.loss, built.schedule, sampler)
            self._algorithms[sampler] = made
        return self._algorithms[sampler]
