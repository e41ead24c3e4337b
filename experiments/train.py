"""Trains one federation and reports PM, TM and GM.

python -m experiments.train --flagfile=experiments/presets/quickstart.flags
"""

import os
import sys
from collections.abc import Sequence

import jax
import tqdm
from absl import app, flags, logging

from experiments import config, experiment, job, report
from permfl_jax import data, results
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.evaluate import LABELS


def run(settings: config.Config) -> None:
    """Runs, or shows what the same run left before.

    Raises:
      InputError: a user's mistake.
      DivergenceError: training diverged; what was measured before it is kept.
    """
    folder = results.Workdir(settings.workdir, vars(settings))
    if folder.finished:
        print(
            f"{folder.path} already holds this run, finished{folder.by_other_code()}:"
        )
        print(report.table(folder.finished))
        return
    built = experiment.build(settings)
    replaced = folder.unfinished_rows()
    folder.write_config({"partition": built.report})
    if replaced:
        print(f"starting over: {replaced} evaluations replaced", file=sys.stderr)
    for warning in job.advice(built):
        print(f"warning: {warning}", file=sys.stderr)
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
    report.curves(rows, floor, title, folder.path / "curves.png")
    folder.write_summary(summary)
    print(report.table(summary))
    print(f"results: {folder.path}/summary.json, curves.png, metrics.jsonl")


def remember_compilations(data_dir: str | None) -> None:
    """Keeps compiled programs beside the prepared data, for the next start.

    Args:
      data_dir: `--data_dir`. `JAX_COMPILATION_CACHE_DIR` has precedence; a folder that
        cannot be written only means compiling again.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = data.SourceOptions(data_dir=data_dir).data_path() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def main(argv: Sequence[str]) -> None:
    """Turns mistakes and divergence into one sentence and a non-zero exit."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; flags start with --.")
        settings = config.from_flags(flags.FLAGS)
        remember_compilations(settings.data_dir)
        run(settings)
    except (InputError, DivergenceError) as error:
        sys.exit(f"experiments.train: {error}")
    except KeyboardInterrupt:
        sys.exit("experiments.train: interrupted; what was measured is in the workdir.")


flags.adopt_module_key_flags(config)

if __name__ == "__main__":
    app.run(main)
