"""Trains one federation and reports PM, TM and GM.

python -m experiments.train --flagfile=experiments/presets/quickstart.flags
"""

import sys
from collections.abc import Sequence

import jax
import tqdm
from absl import app, flags, logging

from permfl_jax import placement, results
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.evaluate import LABELS

from . import config, experiment, job, machine, outcome


def run(settings: config.Config) -> None:
    """Runs, or shows what the same run left before.

    Raises:
      InputError: a user's mistake.
      DivergenceError: training diverged; what was measured before it is kept.
    """
    if jax.process_index():
        follow(settings)
        return
    try:
        folder = results.Workdir(settings.workdir, vars(settings))
    except InputError:
        machine.agree(True)  # the others have nothing to do
        raise
    finished = folder.finished or {}
    if machine.agree(bool(finished)):
        print(
            f"{folder.path} already holds this run, finished{folder.by_other_code()}:"
        )
        print(outcome.table(finished))
        return
    built = experiment.build(settings)
    replaced = folder.unfinished_rows()
    folder.write_config({"partition": built.report})
    folder.write_partition(built.ownership)
    if replaced:
        print(f"starting over: {replaced} evaluations replaced", file=sys.stderr)
    for warning in job.advice(built):
        print(f"warning: {warning}", file=sys.stderr)
    built = experiment.spread(built)
    print(_plan(built), file=sys.stderr)
    with tqdm.tqdm(
        total=settings.num_rounds, unit="round", disable=not sys.stderr.isatty()
    ) as bar:

        def on_round(round_, row):
            shown = {k: row.get(f"{k}/accuracy") for k in LABELS}
            bar.set_postfix({k: f"{v:.3f}" for k, v in shown.items() if v is not None})
            bar.update(round_ - bar.n)

        rows = job.train(built, folder.write_row, on_round)
    floor = job.floors(built)
    summary = job.summarise(rows, floor)
    title = f"{settings.dataset}, {settings.model}, {settings.algorithm}"
    outcome.curves(rows, floor, title, folder.path / "curves.png")
    folder.write_summary(summary)
    print(outcome.table(summary))
    print(f"results: {folder.path}/summary.json, curves.png, metrics.jsonl")


def follow(settings: config.Config) -> None:
    """What every process but the first does: the same work, and nothing is written."""
    if machine.agree(False):
        return
    built = experiment.spread(experiment.build(settings))
    job.planned_bytes(built)
    job.train(built, lambda row: None, lambda round_, row: None)
    job.floors(built)


def _plan(built):
    """Where and in how much memory the rounds will run."""
    where = built.federation.placement
    number = placement.num_chips(where)
    unit = "CPU core" if placement.platform(where) == "cpu" else "chip"
    megabytes = job.planned_bytes(built) / 1e6
    return (
        f"plan: {number} {unit}{'s' * (number > 1)}, {megabytes:,.0f} MB planned on "
        "each for samples, models and work"
    )


def main(argv: Sequence[str]) -> None:
    """Turns mistakes and divergence into one sentence and a non-zero exit."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; flags start with --.")
        settings = config.from_flags(flags.FLAGS)
        machine.set_precision(settings.precision)
        machine.use_all_cores()
        machine.remember_compilations(settings.data_dir)
        if settings.distributed:
            machine.join()
        run(settings)
    except (InputError, DivergenceError) as error:
        sys.exit(f"experiments.train: {error}")
    except KeyboardInterrupt:
        sys.exit("experiments.train: interrupted; what was measured is in the workdir.")


flags.adopt_module_key_flags(config)


def console() -> None:
    """The command permfl-train."""
    app.run(main)


if __name__ == "__main__":
    console()
