"""PerMFL whose teams are formed anew while it trains, one member after another."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from permfl_jax import evaluate, keys, regroup, runner
from permfl_jax.errors import DivergenceError
from permfl_jax.probes import Probe
from permfl_jax.teams import FORMATIONS, agreement

from .. import costs, experiment
from ..members import Members

NAME = "permfl_auto_regrouped"
# What rows say of teams beside scores.
FOUND = ("adjusted_rand", "regroupings", "bytes/formation")
_RULE, _AFTER, _EVERY, _GATE = "update_cosine", 2, 4, 0.02
# A cell that was measured by other ones is measured anew.
CONSTANTS = {"rule": _RULE, "after": _AFTER, "every": _EVERY, "gate": _GATE}


class Regrouped:
    """All members, ready to run; scored when they are done.

    Attributes:
      built: the experiment that they share.
      who: the members.
    """

    def __init__(self, built: experiment.Experiment, who: Members):
        """Nothing is trained yet."""
        self.built, self.who = built, who

    def train(
        self, splits: Sequence[str] = evaluate.SPLITS
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yields the last round and a row for each member.

        Args:
          splits: to score.
        """
        rounds = self.built.config.num_rounds
        pairs = [(s, h) for s in self.who.seeds for h in self.who.hparams]
        members = zip(pairs, self.who.describe(), strict=True)
        rows = [row | self._run(*pair, splits) for pair, row in members]
        yield rounds, rows

    def _run(self, seed, hparams, splits):
        built, numbers = self.built, hparams.traced()
        key, begun = jax.random.key(seed), time.monotonic()
        params = built.task.init(keys.init_key(key))
        state = runner.start(built.algorithm, params, built.federation)
        what = built.algorithm, key, numbers, state, built.federation
        rounds, when = built.config.num_rounds, self._when(key, seed)
        try:
            state, federation, looks = regroup.run(*what, rounds, when)
        except DivergenceError as error:  # of this member; the others go on
            seconds = round(time.monotonic() - begun, 3)
            return {"round": rounds, "seconds": seconds, "diverged": str(error)}
        models = evaluate.models_of(built.algorithm, key, numbers, state, federation)
        scored = evaluate.Evaluator(built.task.metrics, federation).rows(models, splits)
        sent = costs.cost(built, hparams, rounds)
        return (
            {"round": rounds}
            | {"seconds": round(time.monotonic() - begun, 3)}
            | scored
            | sent
            | {
                "bytes/formation": sum(look.up + look.down for look in looks),
                "adjusted_rand": _agreement(federation),
                "regroupings": sum(look.taken for look in looks),
            }
        )

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
        rule = FORMATIONS[_RULE]
        return regroup.Regrouping(rule, probe, _AFTER, _EVERY, _GATE, seed)


def _agreement(federation):
    """With the teams of a partition that numbers devices team by team."""
    team = np.asarray(federation.team)
    truth = team[np.asarray(federation.identity)]
    return agreement.adjusted_rand(team, truth)
