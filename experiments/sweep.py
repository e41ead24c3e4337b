"""Trains seeds times hyper-parameters of one federation as one program.

    python -m experiments.sweep --preset=quickstart \
        --seeds=0,1,2 --grid=device_lr=0.02,0.05,0.1 --workdir=runs/sweep --compare

All flags of `experiments.train` but `--local_floor` and `--distributed` mean the same.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags

from permfl_jax import algorithms, placement, results
from permfl_jax.errors import DivergenceError, InputError

from . import config, experiment, machine, outcome, population, program, sweep_report
from .members import Members, members
from .population import PAIRS, Population

flags.DEFINE_multi_string(
    "grid",
    [],
    "name=value,value,...: a hyper-parameter to vary, repeatable; members are all "
    "combinations, with every seed. Replaces --hparam=name.",
)
flags.DEFINE_bool(
    "compare",
    False,
    f"Also time the rounds against those of one member alone, {PAIRS} times in turn.",
)


def run(settings: config.Config, who: Members, compare: bool) -> None:
    """Runs, or shows what the same sweep left before.

    Raises:
      InputError: a user's mistake.
      DivergenceError: all members diverged.
    """
    identity = {**vars(settings), "seeds": who.seeds, "grid": who.axes}
    folder = results.Workdir(settings.workdir, identity, rows="sweep.jsonl")
    if folder.finished:
        print(f"{folder.path} already holds this sweep{folder.by_other_code()}:")
        shown = outcome.of_finished(sweep_report.table, folder.finished, folder.path)
        print(shown)
        if compare:
            print("--compare: nothing was run, so nothing was timed", file=sys.stderr)
        return
    built = experiment.build(settings)
    if not np.asarray(built.federation.validation.count).any():
        raise InputError(
            "a sweep chooses its best member by validation samples, and "
            f"--validation_fraction={settings.validation_fraction} leaves none."
        )
    replaced = folder.unfinished_rows()
    folder.write_config({"partition": built.report})
    folder.write_partition(built.ownership)
    if replaced:
        print(f"starting over: {replaced} rows replaced", file=sys.stderr)
    whole = Population(experiment.spread(built), who)
    print(_plan(whole), file=sys.stderr)
    rows = _train(whole, folder)
    summary = sweep_report.summarise(who.describe(), rows, built.majority_accuracy)
    if compare:
        summary["cost"] = whole.cost()
    title = f"{settings.dataset}, {settings.model}, {settings.algorithm}"
    sweep_report.picture(summary, rows, who.axes, title, folder.path / "sweep.png")
    folder.write_summary(summary)
    print(sweep_report.table(summary))
    print(f"results: {folder.path}/summary.json, sweep.png, sweep.jsonl")


def _plan(whole):
    where = whole.built.federation.placement
    number, megabytes = placement.num_chips(where), whole.planned_bytes() / 1e6
    unit = "CPU core" if placement.platform(where) == "cpu" else "chip"
    members_ = f"{len(whole.who)} member{'s' * (len(whole.who) > 1)}"
    return (
        f"plan: {members_} in one program on {number} {unit}"
        f"{'s' * (number > 1)}, {megabytes:,.0f} MB planned on each for samples, "
        "models and work"
    )


def _train(whole, folder):
    """All rows; each is written as soon as it is there."""
    rows: list[dict[str, Any]] = []
    with tqdm.tqdm(
        total=whole.built.config.num_rounds,
        unit="round",
        disable=not sys.stderr.isatty(),
    ) as bar:
        for round_, scored in whole.train():
            for row in scored:
                folder.write_row(row)
            rows += scored
            bar.update(round_ - bar.n)
    last = rows[-len(whole.who) :]
    if all("diverged" in row for row in last):
        raise DivergenceError(
            f"all {len(last)} members diverged; the first one: {last[0]['diverged']}"
        )
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the sweep that the flags ask for."""
    program.no_arguments(argv)
    values = flags.FLAGS
    settings = config.from_flags(values)
    if settings.distributed:
        raise InputError("a sweep runs in one process, without --distributed.")
    if values.workdir is None:
        folder = "runs/sweep_{dataset}_{model}_{algorithm}".format(**vars(settings))
        settings = dataclasses.replace(settings, workdir=folder)
    seeds = [str(settings.seed)] if values.seeds is None else values.seeds
    method = algorithms.get(settings.algorithm).hparams
    who = members(method, settings.hparam, seeds, values.grid)
    machine.set_precision(settings.precision)
    machine.use_all_cores()
    machine.remember_compilations(settings.data_dir)
    run(settings, who, values.compare)


flags.adopt_module_key_flags(config)
flags.adopt_module_key_flags(population)


def console() -> None:
    """The command permfl-sweep."""
    program.run(
        main, "experiments.sweep", interrupted="what was measured is in the workdir"
    )


if __name__ == "__main__":
    console()
