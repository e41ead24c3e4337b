"""Trains one federation and reports PM, TM and GM.

python -m experiments.train --preset=quickstart
"""

import contextlib
import sys
from collections.abc import Sequence

import jax
import tqdm
from absl import flags

from permfl_jax import placement, results
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.evaluate import LABELS

from . import (
    config,
    culprit,
    experiment,
    job,
    machine,
    outcome,
    per_device,
    program,
    session,
    writers,
)


def run(settings: config.Config) -> None:
    """Runs, or shows what the same run left before.

    Raises:
      InputError: a user's mistake.
      DivergenceError: training diverged; what was measured before it is kept.
    """
    if jax.process_index():
        follow(settings)
        return
    with contextlib.ExitStack() as lock:
        try:
            folder = _opened(settings, lock)
        except InputError:
            machine.agree(True)  # the others have nothing to do
            raise
        finished = folder.finished or {}
        if not machine.agree(bool(finished)):
            _work(settings, folder)
            return
    print(f"{folder.path} already holds this run, finished{folder.by_other_code()}:")
    print(outcome.of_finished(outcome.table, finished, folder.path))


def _opened(settings, lock):
    """The folder, locked if there is something to do."""
    writers.check_installed()
    folder = results.Workdir(settings.workdir, vars(settings), grows="num_rounds")
    if not folder.finished:
        lock.enter_context(folder.locked())
        folder.look()  # another process may have been faster
    return folder


def _work(settings, folder):
    built = experiment.build(settings, folder.begun)
    start = session.of_run(settings, folder)
    built.check_partition(folder.path, folder.begun)
    built.check_alike()
    for warning in job.advice(built):
        print(f"warning: {warning}", file=sys.stderr)
    # Who has what is told by the samples while they lie on the host.
    classes, built = per_device.classes(built), experiment.spread(built)
    print(_plan(built), file=sys.stderr)
    begin = start.begin(job.start(built))
    if begin is None:
        begin = _anew(folder, built)
        per_device.write(folder.path, built, classes)
    elif not (folder.path / "partition.npz").exists():
        folder.write_partition(built.ownership)
    try:
        rows = _train(folder, start, built, begin, classes)
    except DivergenceError as error:
        raise _with_culprit(error, start, built) from error
    floor = job.floors(built, session.of_floor(settings, folder))
    summary = job.summarise(rows, floor)
    title = f"{settings.dataset}, {settings.model}, {settings.algorithm}"
    outcome.curves(rows, floor, title, folder.path / "curves.png")
    writers.write_csv(folder.path / "metrics.csv", rows)
    folder.write_summary(summary)
    session.forget_floor(settings)
    print(outcome.table(summary))
    print(
        f"results: {folder.path}/summary.json, curves.png, metrics.jsonl, .csv, "
        "devices.npz; python -m experiments.report shows them"
    )


def _anew(folder, built):
    """The first round of a run, also where one was stopped before its first save."""
    replaced = folder.unfinished_rows()
    folder.write_config({"partition": built.report})
    folder.write_partition(built.ownership)
    if replaced:
        print(
            f"starting over, no checkpoint: {replaced} evaluations replaced",
            file=sys.stderr,
        )
    return session.Begin(job.start(built), [], 0.0)


def _train(folder, start, built, begin, classes):
    """The rounds that are left, with a bar where someone looks."""
    rounds, last = built.config.num_rounds, {}
    with (
        start,
        writers.open_all(folder.path, begin) as written,
        tqdm.tqdm(total=rounds, unit="round", disable=not sys.stderr.isatty()) as bar,
    ):

        def on_row(row):
            folder.write_row(row)
            written.write_scalars(row["round"], row)
            written.flush()  # there before a checkpoint says that it is
            last.update(row)

        def after(round_, state, seconds):
            shown = {k: last.get(f"{k}/accuracy") for k in LABELS}
            bar.set_postfix({k: f"{v:.3f}" for k, v in shown.items() if v is not None})
            bar.update(round_ - bar.n)
            if round_ == rounds:
                measured = per_device.measure(built, state)
                per_device.write(folder.path, built, classes, measured)
            start.after(round_, state, seconds)

        bar.update(int(begin.state.round))
        return job.train(built, begin, on_row, after)


def _with_culprit(error, start, built):
    """The same, with the device that broke first; computed again, so on one machine."""
    if not error.round or jax.process_count() > 1:
        return error
    found = start.checkpoints.restore(job.start(built), lambda progress: None)
    saved = job.start(built) if found is None else found.state
    state = culprit.last_finite(built, saved, error.round, start.keep)
    start.checkpoints.close()
    more = culprit.sentence(built, state)
    return DivergenceError(f"{error} {more}".rstrip(), error.round)


def follow(settings: config.Config) -> None:
    """What every process but the first does: the same work, and nothing is written."""
    if machine.agree(False):
        return
    # The folder is shared: teams that were found once are those of the first process.
    folder = results.Workdir(settings.workdir, vars(settings), grows="num_rounds")
    built = experiment.build(settings, folder.begun)
    built.check_alike()
    built = experiment.spread(built)
    start = session.of_run(settings, None)
    job.planned_bytes(built)
    begin = start.begin(job.start(built)) or session.Begin(job.start(built), [], 0.0)

    def after(round_, state, seconds):
        if round_ == settings.num_rounds:
            per_device.measure(built, state)
        start.after(round_, state, seconds)

    with start:
        job.train(built, begin, lambda row: None, after)
    job.floors(built, session.of_floor(settings, None))


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
    """Runs what the flags ask for; a signal that stops it has its own exit status."""
    program.no_arguments(argv)
    settings = config.from_flags(flags.FLAGS)
    machine.set_precision(settings.precision)
    machine.use_all_cores()
    machine.remember_compilations(settings.data_dir)
    if settings.distributed:
        machine.join()
    try:
        run(settings)
    except session.StoppedError as stop:
        print(f"experiments.train: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signum)


for _module in (config, session, writers, job):
    flags.adopt_module_key_flags(_module)


def console() -> None:
    """The command permfl-train."""
    program.run(
        main,
        "experiments.train",
        interrupted="the same command goes on",
        leave=machine.leave,
    )


if __name__ == "__main__":
    console()
