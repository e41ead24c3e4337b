"""Members that cannot be trained as one program: one after another."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from permfl_jax.errors import DivergenceError

from .. import costs
from ..experiment import Experiment
from ..members import Members


def train(
    built: Experiment, who: Members, run: Callable[[int, Any], dict[str, Any]]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yields the last round and a row for each member, as `Population.train` does.

    Args:
      built: the experiment that they share.
      who: the members.
      run: `(seed, hparams) -> scores`, of the last round.
    """
    rounds = built.config.num_rounds
    pairs = [(seed, hparams) for seed in who.seeds for hparams in who.hparams]
    rows = []
    for (seed, hparams), member in zip(pairs, who.describe(), strict=True):
        begun = time.monotonic()
        try:
            found = run(seed, hparams) | costs.cost(built, hparams, rounds)
        except DivergenceError as error:  # of this member; the others go on
            found = {"diverged": str(error)}
        seconds = round(time.monotonic() - begun, 3)
        rows.append({**member, "round": rounds, "seconds": seconds, **found})
    yield rounds, rows
