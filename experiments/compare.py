"""Compares methods on datasets and models: the tables of the paper, done right.

    python -m experiments.compare --preset=compare_quick

A cell is one method on one column; what is finished is kept, so that the same command
goes on where it was stopped. Two protocols, never mixed in one folder: `fair` tunes
every method on validation with the same budget and reports the last round; `paper`
takes the authors' settings and reports the best round on test beside the last.

All flags of `experiments.train` are common settings of the columns.
"""

import os
from collections.abc import Sequence

from absl import flags

from permfl_jax import algorithms
from permfl_jax.errors import InputError

from . import config, machine, members, population, program
from .contests import captions, columns, comparison

flags.DEFINE_list(
    "methods", None, f"Default: all of {', '.join(algorithms.ALGORITHMS)}."
)
flags.DEFINE_string(
    "protocol",
    "fair",
    "fair: tuned on validation, last round; paper: authors' settings, best round.",
)
flags.DEFINE_list(
    "tuning_seeds",
    None,
    "Seeds of the tuning runs. Default: the number after the largest of --seeds.",
)

_SEEDS = ("0", "1", "2", "3", "4")


def from_flags(values: flags.FlagValues) -> captions.Comparison:
    """Everything that was asked for.

    Raises:
      InputError: a user's mistake.
    """
    if values.protocol not in columns.PROTOCOLS:
        raise InputError(
            f"--protocol={values.protocol} is unknown; choose from "
            f"{', '.join(columns.PROTOCOLS)}."
        )
    seeds = members.read_seeds(_SEEDS if values.seeds is None else values.seeds)
    texts = values.tuning_seeds
    tuning = members.read_seeds(
        [str((max(seeds) + 1) % 2**32)] if texts is None else texts, "tuning_seeds"
    )
    return captions.Comparison(
        workdir=os.path.expanduser(values.workdir or f"runs/compare_{values.protocol}"),
        protocol=values.protocol,
        columns=columns.columns(values, values.protocol),
        methods=captions.names(values.methods),
        seeds=seeds,
        tuning_seeds=tuning,
    )


def main(argv: Sequence[str]) -> None:
    """Compares what the flags ask for."""
    program.no_arguments(argv)
    asked = from_flags(flags.FLAGS)
    machine.use_all_cores()
    machine.remember_compilations(flags.FLAGS.data_dir)
    comparison.run(asked)


for _module in (config, columns, population):
    flags.adopt_module_key_flags(_module)


def console() -> None:
    """The command permfl-compare."""
    program.run(main, "experiments.compare", interrupted="finished cells are kept")


if __name__ == "__main__":
    console()
