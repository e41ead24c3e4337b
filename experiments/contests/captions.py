"""What a comparison was asked for, and how its tables say so."""

import shlex
import sys
from typing import Any, NamedTuple

from permfl_jax import algorithms
from permfl_jax.errors import InputError

from . import grids
from .columns import Column
from .published import NOTE


class Comparison(NamedTuple):
    """Everything that was asked for, checked; no data is read yet.

    Attributes:
      workdir: folder of the results.
      protocol: `fair` or `paper`.
      columns: datasets and models.
      methods: their names.
      seeds: of the reported runs.
      tuning_seeds: of the tuning runs.
    """

    workdir: str
    protocol: str
    columns: list[Column]
    methods: list[str]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]


def names(texts: list[str] | None) -> list[str]:
    """`--methods`, checked.

    Raises:
      InputError: unknown, repeated or none.
    """
    if texts is None:
        return list(algorithms.ALGORITHMS)
    for text in texts:
        if text not in algorithms.ALGORITHMS:
            raise InputError(
                f"--methods={text} is unknown; choose from "
                f"{', '.join(algorithms.ALGORITHMS)}."
            )
        if texts.count(text) > 1:
            raise InputError(f"--methods={text} is given twice.")
    if not texts:
        raise InputError("--methods= names no method.")
    return texts


def of_column(asked: Comparison, column: Column) -> str:
    """Horizon, data and tuning of one column."""
    own = column.config
    sizes = sorted(set(own.team_sizes))
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    text = (
        f"`{own.dataset}`, `{own.model}`: {len(own.team_sizes)} teams of {size} "
        f"devices, {own.team_formation or 'default'} formation, T = {own.num_rounds}, "
        f"K = {own.team_steps}, L = {own.device_steps}, "
        f"B = {own.batch_size or 'all'}; data, split and teams of seed {own.seed}."
    )
    if asked.protocol == "fair":
        text += (
            f" Tuning: {grids.BUDGET} settings of every method, {column.tuning_rounds} "
            f"rounds, step sizes around {column.grid_lr:g}."
        )
    return text


def whole(asked: Comparison, found: dict[Any, dict[str, Any]]) -> str:
    """What the numbers are, and who made them with what.

    Args:
      asked: the comparison.
      found: its finished cells.
    """
    commits = sorted({str(cell["commit"]) for cell in found.values()})
    machines = sorted({cell["machine"] for cell in found.values()})
    seeds = ", ".join(map(str, asked.seeds))
    common = (
        f"Test accuracy in percent, pooled over all devices' samples: mean ± 95 % "
        f"confidence interval (Student t) over the seeds {seeds}, which vary the "
        "initial model, mini-batches and participation. The difference to PerMFL is "
        "taken seed by seed and has an interval of its own. Bytes are those of models "
        "sent in both directions, by the setting of the first model shown. Seconds "
        "include compilation. † adapted when scored, not stored. A – has no such model."
    )
    if asked.protocol == "paper":
        rule = (
            "Settings are the methods' authors' or defaults, not tuned. Best: the best "
            "round on TEST of each seed, separately for PM, TM and GM, as the authors "
            "report; last: the last round. Published numbers are for T = 400, K = 10, "
            "L = 20 and 40 devices (CIFAR-100: 350), whatever a column's own settings. "
            "Absent devices keep the PM they had with ditto, local, al2gd, demlearn "
            f"and pfedbayes. {NOTE}"
        )
    else:
        tuning = ", ".join(map(str, asked.tuning_seeds))
        rule = (
            "Every method computes as many gradients per device and round; each is "
            f"tuned on validation samples (seed {tuning}), separately for PM, TM and "
            "GM; numbers are of the last round, on test samples that decided nothing. "
            "* a tuned value on the edge of its grid (of three or more values)."
        )
    command = shlex.join(["python", "-m", "experiments.compare", *sys.argv[1:]])
    return (
        f"{rule} {common}\n\nCommit {', '.join(commits)}; {'; '.join(machines)}.\n\n"
        f"    {command}"
    )
