"""A method whose teams are formed anew while it trains."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from permfl_jax import evaluate, keys, regroup, runner
from permfl_jax.probes import Probe
from permfl_jax.teams import FORMATIONS, agreement

from .. import experiment
from ..members import Members
from . import one_by_one

# What rows say of teams beside scores.
FOUND = ("adjusted_rand", "regroupings", "bytes/formation")


class Regrouped:
    """All members, ready to run; scored when they are done.

    Attributes:
      built: the experiment that they share, on one chip.
      who: the members.
    """

    def __init__(
        self,
        built: experiment.Experiment,
        who: Members,
        rule: str,
        after: int,
        every: int,
        gate: float,
    ):
        """Nothing is trained yet; for the numbers see `regroup.Regrouping`."""
        self.built, self.who = built, who
        self._rule, self._times, self._gate = FORMATIONS[rule], (after, every), gate

    def train(
        self, splits: Sequence[str] = evaluate.SPLITS
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yields the last round and a row for each member.

        Args:
          splits: to score.
        """

        def run(seed, hparams):
            return self._run(seed, hparams, splits)

        yield from one_by_one.train(self.built, self.who, run)

    def _run(self, seed, hparams, splits):
        built, numbers = self.built, hparams.traced()
        key = jax.random.key(seed)
        params = built.task.init(keys.init_key(key))
        state = runner.start(built.algorithm, params, built.federation)
        what = built.algorithm, key, numbers, state, built.federation
        rounds, when = built.config.num_rounds, self._when(key, seed)
        state, federation, looks = regroup.run(*what, rounds, when)
        models = evaluate.models_of(built.algorithm, key, numbers, state, federation)
        scored = evaluate.Evaluator(built.task.metrics, federation).rows(models, splits)
        return scored | {
            "bytes/formation": sum(look.up + look.down for look in looks),
            "adjusted_rand": _agreement(federation),
            "regroupings": sum(look.taken for look in looks),
        }

    def _when(self, key, seed):
        config = self.built.config
        probe = Probe(
            self.built.task.loss,
            self.built.schedule,
            None,
            key,
            config.formation_lr,
            config.formation_rounds,
        )
        return regroup.Regrouping(self._rule, probe, *self._times, self._gate, seed)


def _agreement(federation):
    """With the teams of a partition that numbers devices team by team."""
    team = np.asarray(federation.team)
    truth = team[np.asarray(federation.identity)]
    return agreement.adjusted_rand(team, truth)
