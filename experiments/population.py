"""Seeds times settings of one method on one federation, as one program."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from permfl_jax import evaluate, keys, runner, sweep
from permfl_jax.types import Federation, State

from . import costs, experiment, timing
from .members import Members

PAIRS = 5  # measurements of `Population.cost`

flags.DEFINE_list(
    "seeds",
    None,
    "Seeds of the members: they vary the initial model, mini-batches and "
    "participation. Data, its split and teams come from --seed, the same for all "
    "members. Default: --seed; of a comparison 0,1,2,3,4.",
)


class Population:
    """All members, ready to run.

    Attributes:
      built: the experiment that they share, after `experiment.spread`.
      who: the members.
    """

    def __init__(self, built: experiment.Experiment, who: Members):
        """Makes the numbers of all members."""
        self.built, self.who = built, who
        self._calls = experiment.rounds_per_call(built.config)
        self._key = [jax.random.key(seed) for seed in who.seeds]
        self._hparams = [chosen.traced() for chosen in who.hparams]

    def arguments(self) -> tuple[jax.Array, Any, State, Federation]:
        """Of `sweep.run_many`, from `key` to `federation`."""
        params = [self.built.task.init(keys.init_key(key)) for key in self._key]
        start = sweep.start_many(
            self.built.algorithm,
            _stack(params),
            len(self._hparams),
            self.built.federation,
        )
        return jnp.stack(self._key), _stack(self._hparams), start, self.built.federation

    def planned_bytes(self) -> int:
        """Memory of the compiled rounds on one chip; what is compiled is kept."""
        return runner.bytes_of(
            sweep.advance_many.lower(
                self.built.algorithm, self._calls, *self.arguments()
            ).compile()
        )

    def train(
        self, splits: Sequence[str] = evaluate.SPLITS
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yields the round and, where models are scored, a row for each member.

        Args:
          splits: to score.
        """
        settings = self.built.config
        evaluator = evaluate.Evaluator(self.built.task.metrics, self.built.federation)
        begun = time.monotonic()
        for state, metrics, ended in sweep.run_many(
            self.built.algorithm, *self.arguments(), settings.num_rounds, self._calls
        ):
            round_ = int(state.round)
            rows: list[dict[str, Any]] = []
            all_ended = len(ended) == len(self.who)
            due = round_ % settings.eval_every == 0 or round_ == settings.num_rounds
            if due or all_ended:
                now = {"round": round_, "seconds": round(time.monotonic() - begun, 3)}
                indices = np.ndindex(len(self._key), len(self._hparams))
                for who, member in zip(indices, self.who.describe(), strict=True):
                    if who in ended:
                        row = {"diverged": ended[who]}
                    else:
                        row = self._score(evaluator, state, who, splits)
                        row |= _last(metrics, who)
                        row |= costs.cost(self.built, self.who.hparams[who[1]], round_)
                    rows.append({**member, **now, **row})
            yield round_, rows

    def _score(self, evaluator, state, who, splits):
        federation, algorithm = self.built.federation, self.built.algorithm
        key, hparams = self._key[who[0]], self._hparams[who[1]]
        own = sweep.member_of(state, who[0], who[1], federation)
        models = evaluate.models_of(algorithm, key, hparams, own, federation)
        return evaluator.rows(models, splits)

    def cost(self) -> dict[str, float]:
        """Seconds of a member's round in the sweep over those of a round alone."""
        algorithm, federation = self.built.algorithm, self.built.federation
        key, hparams, start, _ = self.arguments()
        alone = runner.start(
            algorithm, self.built.task.init(keys.init_key(key[0])), federation
        )
        states = {"many": start, "one": alone}

        def many():
            states["many"], _ = jax.block_until_ready(
                sweep.advance_many(
                    algorithm, self._calls, key, hparams, states["many"], federation
                )
            )

        def one():
            states["one"], _ = jax.block_until_ready(
                runner.advance(
                    algorithm,
                    self._calls,
                    self._key[0],
                    self._hparams[0],
                    states["one"],
                    federation,
                )
            )

        many(), one()  # compile
        found = timing.ratio(
            lambda: timing.seconds(many) / len(self.who),
            lambda: timing.seconds(one),
            PAIRS,
        )
        return found._asdict() | {"pairs": PAIRS}


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _last(metrics, who):
    """Of the rounds of one call, the last."""
    return {
        name: float(values[who][-1])
        for name, values in metrics.items()
        if not name.startswith(runner.HEALTH)
    }
