"""Trains seeds times hyper-parameters of one federation as one program.

    python -m experiments.sweep --flagfile=experiments/presets/quickstart.flags \
        --seeds=0,1,2 --grid=device_lr=0.02,0.05,0.1 --workdir=runs/sweep --compare

All flags of `experiments.train` but `--local_floor` and `--distributed` mean the same.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import app, flags, logging

from experiments import (
    config,
    experiment,
    machine,
    sweep_report,
    timing,
)
from experiments.members import Members, members
from permfl_jax import algorithms, evaluate, keys, placement, results, runner, sweep
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.types import Federation, State

_PAIRS = 5

flags.DEFINE_list(
    "seeds",
    None,
    "Seeds of the members: they vary the initial model, mini-batches and "
    "participation. Data, its split and teams come from --seed, the same for all "
    "members. Default: --seed.",
)
flags.DEFINE_multi_string(
    "grid",
    [],
    "name=value,value,...: a hyper-parameter to vary, repeatable; members are all "
    "combinations, with every seed. Replaces --hparam=name.",
)
flags.DEFINE_bool(
    "compare",
    False,
    f"Also time the rounds against those of one member alone, {_PAIRS} times in turn.",
)


class Job:
    """All members, ready to run.

    Attributes:
      built: the experiment that they share.
      who: the members.
    """

    def __init__(self, built: experiment.Experiment, who: Members):
        """Places the federation and makes the numbers of all members."""
        self.built, self.who = experiment.spread(built), who
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

    def train(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yields the round and, where models are scored, a row for each member."""
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
                        row = self._score(evaluator, state, who) | _last(metrics, who)
                    rows.append({**member, **now, **row})
            yield round_, rows

    def _score(self, evaluator, state, who):
        federation, algorithm = self.built.federation, self.built.algorithm
        key, hparams = self._key[who[0]], self._hparams[who[1]]
        own = sweep.member_of(state, who[0], who[1], federation)
        models = evaluate.models_of(algorithm, key, hparams, own, federation)
        return evaluator.rows(models)

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
            _PAIRS,
        )
        return found._asdict() | {"pairs": _PAIRS}


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _last(metrics, who):
    """Of the rounds of one call, the last."""
    return {
        name: float(values[who][-1])
        for name, values in metrics.items()
        if not name.startswith("finite/")
    }


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
        print(sweep_report.table(folder.finished))
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
    if replaced:
        print(f"starting over: {replaced} rows replaced", file=sys.stderr)
    whole = Job(built, who)
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
    """Turns mistakes and divergence into one sentence and a non-zero exit."""
    logging.set_verbosity(logging.WARNING)
    values = flags.FLAGS
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; flags start with --.")
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
    except (InputError, DivergenceError) as error:
        sys.exit(f"experiments.sweep: {error}")
    except KeyboardInterrupt:
        sys.exit("experiments.sweep: interrupted; what was measured is in the workdir.")


flags.adopt_module_key_flags(config)

if __name__ == "__main__":
    app.run(main)
