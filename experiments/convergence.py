"""Measures PerMFL's convergence, and draws it beside what the theory predicts.

    python -m experiments.convergence --problem=quadratic --workdir=runs/rates

quadratic: rates, floors and the loops that T rounds need, beside closed forms. mclr:
l2-regularised, beside its optimum to 1e-10 and the linearised round. nonconvex: the
mean of |∇F|² beside its O(1/T) bound, for 1 - cos and for a network. All in float64.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags

from permfl_jax import data, results
from permfl_jax.errors import InputError

from . import (
    convergence_report,
    growing_loops,
    machine,
    mclr_rates,
    members,
    nonconvex_rates,
    population,
    program,
    quadratic_cells,
    quadratic_rates,
    quick,
)

del population, quick  # imported for their flags and those of the modules below them

_NETWORK_DATA = ("digits", "synthetic")
# Problem to the names that --sweep takes.
SWEEPS = {
    "quadratic": (*quadratic_cells.SWEEPS, "rounds"),
    "mclr": ("loops", "beta"),
    "nonconvex": ("cosine", "network"),
}

flags.DEFINE_string("problem", "quadratic", f"One of: {', '.join(SWEEPS)}.")
flags.DEFINE_list(
    "sweep",
    None,
    "What is varied: "
    + "; ".join(f"{name}: {', '.join(sweeps)}" for name, sweeps in SWEEPS.items())
    + ". Default: all of the problem.",
)


class Plan(NamedTuple):
    """What is to be measured.

    Attributes:
      problem: a key of `SWEEPS`.
      sweeps: some of its values.
      quick: few cells.
      seeds: R.
      dataset: of MCLR.
    """

    problem: str
    sweeps: tuple[str, ...]
    quick: bool
    seeds: tuple[int, ...]
    dataset: str

    @property
    def command(self) -> str:
        """The command that repeats it."""
        words = ["python -m experiments.convergence", f"--problem={self.problem}"]
        if self.sweeps != SWEEPS[self.problem]:
            words.append(f"--sweep={','.join(self.sweeps)}")
        if self.problem == "mclr":
            words.append(f"--dataset={self.dataset}")
        words.append(f"--seeds={','.join(map(str, self.seeds))}")
        return " ".join([*words, *["--quick"] * self.quick])


def plan(values: flags.FlagValues) -> Plan:
    """The checked flags.

    Raises:
      InputError: an unknown problem or sweep.
    """
    problem = values.problem
    if problem not in SWEEPS:
        raise InputError(f"--problem={problem} must be one of {', '.join(SWEEPS)}.")
    chosen = SWEEPS[problem] if values.sweep is None else tuple(values.sweep)
    allowed = ", ".join(SWEEPS[problem])
    if not chosen:
        raise InputError(f"--sweep= names nothing to vary; choose from {allowed}.")
    for name in chosen:
        if name not in SWEEPS[problem]:
            raise InputError(
                f"--sweep={name} is unknown for --problem={problem}; choose from "
                f"{allowed}."
            )
        if chosen.count(name) > 1:
            raise InputError(f"--sweep={','.join(chosen)} names {name} twice.")
    if problem == "mclr" and values.dataset not in mclr_rates.DATASETS:
        raise InputError(
            f"--dataset={values.dataset} cannot be used for --problem=mclr; choose "
            f"from {', '.join(mclr_rates.DATASETS)}."
        )
    texts = ["0", "1", "2", "3", "4"] if values.seeds is None else values.seeds
    return Plan(
        problem, chosen, values.quick, members.read_seeds(texts), values.dataset
    )


def rows(what: Plan, options: data.SourceOptions) -> Iterator[dict[str, Any]]:
    """Measures cell after cell."""
    if what.problem == "mclr":
        given = mclr_rates.problem(what.dataset, options)
        yield from mclr_rates.rows(
            given, what.dataset, what.seeds, what.sweeps, what.quick
        )
    if what.problem == "nonconvex" and "cosine" in what.sweeps:
        yield from nonconvex_rates.cosine_rows(what.seeds, what.quick)
    if what.problem == "nonconvex" and "network" in what.sweeps:
        for name in _NETWORK_DATA:
            yield nonconvex_rates.network_row(name, options, what.seeds, what.quick)
    if what.problem == "quadratic":
        swept = [name for name in what.sweeps if name != "rounds"]
        for cell in quadratic_cells.cells(swept, what.quick):
            yield quadratic_rates.row(quadratic_rates.measure(cell, what.seeds))
        if "rounds" in what.sweeps:
            yield from growing_loops.rows(what.seeds, what.quick)


def run(what: Plan, options: data.SourceOptions, workdir: str) -> None:
    """Measures, or shows what the same command left before.

    Raises:
      InputError: a user's mistake.
    """
    folder = results.Workdir(workdir, what._asdict(), rows="cells.jsonl")
    if folder.finished:
        print(f"{folder.path} already holds these cells{folder.by_other_code()}:")
        print(convergence_report.table(folder.finished["cells"], what.command))
        return
    with folder.locked():
        folder.write_config({})
        found = []
        for row in rows(what, options):
            folder.write_row(row)
            found.append(row)
            print(f"{row['sweep']}: {row['cell']}", file=sys.stderr)
        text = convergence_report.table(found, what.command)
        picture = convergence_report.picture(found, what.command)
        for name, content in (("table.md", text.encode()), ("figure.png", picture)):
            (folder.path / name).write_bytes(content)
        folder.write_summary({"command": what.command, "cells": found})
    print(text)
    print(f"results: {folder.path}/table.md, figure.png, summary.json, cells.jsonl")


def main(argv: Sequence[str]) -> None:
    """Measures what the flags ask for."""
    program.no_arguments(argv)
    values = flags.FLAGS
    what = plan(values)
    # Rates are small differences of errors down to 1e-12: nothing less will do.
    jax.config.update("jax_enable_x64", True)
    options = data.SourceOptions(
        num_devices=9, data_dir=values.data_dir, manual_dir=values.manual_dir
    )
    machine.remember_compilations(values.data_dir)
    words = ["convergence", what.problem, *["quick"] * what.quick]
    run(what, options, values.workdir or os.path.join("runs", "_".join(words)))


for _name in ("workdir", "data_dir", "manual_dir", "dataset", "seeds", "quick"):
    flags.declare_key_flag(_name)


def console() -> None:
    """The command permfl-convergence."""
    program.run(main, "experiments.convergence")


if __name__ == "__main__":
    console()
