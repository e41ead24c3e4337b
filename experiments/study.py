"""Answers a question that the paper left open, with a figure and tables.

    python -m experiments.study --study=few_teams --quick

Exact curves first, where the answer needs no data; then arms that are trained, with
paired seeds on one partition. What is finished is kept: the same command goes on where
it was stopped. Flags of `experiments.train` replace those of the study.
"""

import json
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from permfl_jax import plain_files, results
from permfl_jax.errors import InputError

from . import config, machine, members, population, program, quick, studies
from .contests.cells import INDIFFERENT, Store
from .studies import cells, page, points, rounds
from .studies.study import TOGETHER, Curve

flags.DEFINE_string("study", None, f"One of: {', '.join(studies.STUDIES)}.")
_SEEDS = ("0", "1", "2", "3", "4")


def run(name: str, small: bool, workdir: str, values: flags.FlagValues) -> None:
    """Measures what is not there yet, then draws everything.

    Raises:
      InputError: a user's mistake.
    """
    asked = studies.STUDIES[name]
    seeds = members.read_seeds(_SEEDS if values.seeds is None else values.seeds)
    plan = cells.plan(asked, small, values)
    cells.check(plan, values)
    folder = results.Workdir(
        workdir, {"study": name, "quick": small}, rows="progress.jsonl"
    )
    store = Store(folder.path)
    wanted = {cell.name: _identity(cell, values, seeds) for cell in plan}
    found = {cell.name: _stored(store, name, cell, wanted[cell.name]) for cell in plan}
    missing = [cell for cell in plan if found[cell.name] is None]
    folder.write_config({"seeds": seeds})
    begun = time.monotonic()
    for cell, result in cells.measure(missing, values, seeds):
        found[cell.name] = {**result, "identity": wanted[cell.name]}
        store.write(name, cell.name, found[cell.name])
        done = 1 + missing.index(cell)
        left = (time.monotonic() - begun) / done * (len(missing) - done) / 60
        print(
            f"[{done}/{len(missing)}] {cell.name} {' '.join(cell.flags)}: "
            f"{result['seconds']} s, about {left:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
    arms = [(arm, found[cell.name]) for cell in plan for arm in cell.arms]
    curves = asked.exact(cells.config_of(plan[0], values))
    in_order = _in_order(asked.arms(small), arms)
    _write(folder.path, asked, in_order, curves, _command(name, small, values))


def _stored(store, name, cell, wanted):
    found = store.read(name, cell.name, wanted)
    if found and len(found.get("results", ())) != len(cell.settings):
        raise InputError(
            f"{store.path / name / cell.name}.json is damaged; delete it to compute "
            "that cell again."
        )
    return found


def _in_order(arms, measured):
    """As the study lists them, which is how lines and places are drawn."""
    by_arm = {repr(arm): (arm, cell) for arm, cell in measured}
    return [by_arm[repr(arm)] for arm in arms]


def _identity(cell: cells.Cell, values: flags.FlagValues, seeds: Any) -> Any:
    settings = cells.config_of(cell, values)
    used = {k: v for k, v in vars(settings).items() if k not in INDIFFERENT}
    used |= {"method": cell.method, "settings": cell.settings, "seeds": seeds}
    if cell.driver != TOGETHER:
        used["driver"] = cell.driver
    return json.loads(json.dumps(used))


def _write(
    path: pathlib.Path,
    asked: studies.Study,
    measured: list[Any],
    curves: Sequence[Curve],
    command: str,
) -> None:
    found = points.of(measured, asked)
    seconds = sum({id(cell): cell["seconds"] for _, cell in measured}.values())
    text = (
        f"# {asked.title}\n\n`{command}`, {seconds:.0f} s of training\n\n"
        f"{page.table(asked, found, curves)}\n"
    )
    files = {"table.md": text.encode()}
    files["figure.png"] = page.picture(asked, found, curves, command)
    if asked.over_rounds:
        files["rounds.png"] = rounds.picture(asked, found, curves, command)
    for file_name, content in files.items():
        with plain_files.whole(path / file_name) as file:
            file.write_bytes(content)
    print(text)
    print(f"results: {path}/{', '.join(files)}, cells/")


def _command(name: str, small: bool, values: flags.FlagValues) -> str:
    """What repeats it: flags that the user gave, but for folders."""
    given = [
        flag.serialize()
        for flag in values.get_key_flags_for_module(sys.modules[__name__])
        if flag.present
        and flag.name not in ("study", "quick", "workdir", "data_dir", "manual_dir")
    ]
    words = ["python -m experiments.study", f"--study={name}", *["--quick"] * small]
    return " ".join([*words, *map(shlex.quote, given)])


def main(argv: Sequence[str]) -> None:
    """Answers the question that the flags name."""
    program.no_arguments(argv)
    values = flags.FLAGS
    if values.study not in studies.STUDIES:
        raise InputError(
            f"--study={values.study} must be one of {', '.join(studies.STUDIES)}."
        )
    machine.use_all_cores()
    machine.remember_compilations(values.data_dir)
    words = ["study", values.study, *["quick"] * values.quick]
    workdir = values.workdir or os.path.join("runs", "_".join(words))
    run(values.study, values.quick, os.path.expanduser(workdir), values)


for _module in (config, population, quick):
    flags.adopt_module_key_flags(_module)


def console() -> None:
    """The command permfl-study."""
    program.run(main, "experiments.study", interrupted="finished cells are kept")


if __name__ == "__main__":
    console()
