"""What a comparison computes and leaves in its folder."""

import dataclasses
import json
import os
import platform
import sys
import time
from typing import Any

import jax
import numpy as np

from permfl_jax import (
    algorithms,
    data,
    models,
    partitions,
    plain_files,
    provenance,
    results,
    teams,
)
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

from .. import experiment, machine
from . import captions, cells, contest, dots, grids, tables
from .captions import Comparison


def check(asked: Comparison) -> None:
    """Finds what can be found before data is read.

    Raises:
      InputError: a method that the schedule of a column does not suit.
    """
    for column in asked.columns:
        where = f"--column={column.name}: "
        if asked.protocol == "fair" and not column.config.validation_fraction:
            raise InputError(
                f"{where}the fair protocol tunes on validation samples, and "
                "--validation_fraction=0 leaves none."
            )
        try:
            experiment.rounds_per_call(column.config)
            _check_names(column.config)
            for method in asked.methods:
                _check_cell(column, method, asked.protocol)
        except InputError as error:
            raise InputError(f"{where}{error}") from error


def _check_names(settings):
    for flag, registry in (
        ("dataset", data.DATASETS),
        ("model", models.MODELS),
        ("partition", partitions.PARTITIONS),
        ("team_formation", teams.FORMATIONS),
    ):
        given = getattr(settings, flag)
        if given is not None and given not in registry:
            raise InputError(
                f"--{flag}={given} is unknown; choose from {', '.join(registry)}."
            )


def _check_cell(column, method, protocol):
    settings, fixed = column.config, column.fixed(method)
    names = [field.name for field in dataclasses.fields(Schedule)]
    schedule = Schedule(**{name: getattr(settings, name) for name in names})
    sampler = Sampler(
        settings.team_sizes, settings.teams_per_round, settings.devices_per_round
    )
    schedule = contest.schedule_of(method, schedule, protocol)
    algorithms.get(method).factory(lambda params, batch: batch, schedule, sampler)
    tried: Any = [{}]
    if protocol == "fair":
        tried = grids.grid(method, column.grid_lr, fixed)
    for setting in tried:
        grids.checked(method, fixed, setting)


def run(asked: Comparison) -> None:
    """Computes the cells that are not there yet, then writes the tables.

    Raises:
      InputError: a user's mistake, or a folder that holds something else.
    """
    check(asked)
    folder = results.Workdir(
        asked.workdir, {"protocol": asked.protocol}, rows="progress.jsonl"
    )
    store = cells.Store(folder.path)
    wanted = {
        (column.name, method): _identity(asked, column, method)
        for column in asked.columns
        for method in asked.methods
    }
    found = {
        key: cell
        for key, identity in wanted.items()
        if (cell := store.read(*key, identity)) is not None
    }
    missing = [key for key in wanted if key not in found]
    _say_what_is_kept(found)
    folder.write_config(
        {
            "seeds": asked.seeds,
            "tuning_seeds": asked.tuning_seeds,
            "methods": asked.methods,
            "columns": {column.name: vars(column.config) for column in asked.columns},
            "devices": _machine(),
        }
    )
    begun = time.monotonic()
    for column in asked.columns:
        todo = [method for name, method in missing if name == column.name]
        built = _load(asked, column, todo[0]) if todo else None
        for method in todo:
            cell = _compute(asked, column, method, built)
            machine.forget_programs()
            cell["identity"] = wanted[column.name, method]
            store.write(column.name, method, cell)
            found[column.name, method] = cell
            done = len(found) - len(wanted) + len(missing)
            _progress(folder, column.name, method, cell, done, len(missing), begun)
    _write(asked, folder, found)


def _identity(asked, column, method):
    return cells.identity(
        column, method, asked.protocol, asked.seeds, asked.tuning_seeds
    )


def _load(asked, column, method):
    """The column's data and task, placed; with one of its methods."""
    # A method's hyper-parameters are given as METHOD.name, which `build` cannot read.
    machine.set_precision(column.config.precision)
    settings = dataclasses.replace(column.config, algorithm=method, hparam=())
    try:
        built = experiment.build(settings)
    except InputError as error:
        raise InputError(f"--column={column.name}: {error}") from error
    tested = np.asarray(built.federation.validation.count).any()
    if asked.protocol == "fair" and not tested:
        raise InputError(
            f"--column={column.name}: --validation_fraction="
            f"{settings.validation_fraction} leaves no device a validation sample."
        )
    return experiment.spread(built)


def _compute(asked, column, method, built):
    entry = contest.enter(
        column, method, built, asked.seeds, asked.tuning_seeds, asked.protocol
    )
    return {
        **contest.run(entry, asked.protocol),
        "partition_sha256": built.report.get("sha256"),
        "commit": provenance.git_commit(),
        "machine": _machine(),
    }


def _machine():
    there = jax.devices()
    kind = there[0].device_kind
    return f"{len(there)} x {kind}, {platform.machine()}, {os.cpu_count()} cores"


def _say_what_is_kept(found):
    if not found:
        return
    own = provenance.git_commit()
    others = sorted({str(cell["commit"]) for cell in found.values()} - {str(own)})
    remark = f", of them some by commit {', '.join(others)}" if others else ""
    print(f"{len(found)} finished cells are kept{remark}", file=sys.stderr)


def _progress(folder, column, method, cell, done, in_all, begun):
    elapsed = time.monotonic() - begun
    spent = " + ".join(f"{s:.0f} s {name}" for name, s in cell["seconds"].items())
    scores = []
    for label, own in cell["labels"].items():
        there = [value for value in own["accuracy"] if value is not None]
        scores.append(f"{label} {np.mean(there):.2%}" if there else f"{label} diverged")
    left = elapsed / done * (in_all - done)
    print(
        f"[{done}/{in_all}] {column}/{method}: {', '.join(scores) or 'diverged'}; "
        f"{spent}; about {left / 60:.0f} min left",
        file=sys.stderr,
        flush=True,
    )
    folder.write_row({"column": column, "method": method, "seconds": elapsed})


def _write(asked, folder, found):
    by_column = {
        column.name: tables.rows(
            column, {method: found[column.name, method] for method in asked.methods}
        )
        for column in asked.columns
    }
    flat = [row for rows in by_column.values() for row in rows]
    caption = captions.whole(asked, found)
    parts = [f"# Comparison, `{asked.protocol}` protocol", caption]
    for column in asked.columns:
        table = tables.as_markdown(by_column[column.name], asked.protocol)
        parts += [f"## {column.name}", captions.of_column(asked, column), table]
    text = "\n\n".join(parts)
    content = {"protocol": asked.protocol, "caption": caption, "rows": flat}
    for name, body in (
        ("table.md", text + "\n"),
        ("table.csv", tables.as_csv(flat)),
        ("table.json", json.dumps(content, indent=1, allow_nan=False) + "\n"),
    ):
        with plain_files.whole(folder.path / name) as file:
            file.write_text(body, encoding="utf-8")
    quantity = "_best" if asked.protocol == "paper" else ""
    title = f"{asked.protocol} protocol, seeds {', '.join(map(str, asked.seeds))}"
    dots.picture(by_column, quantity, title, folder.path / "figure.png")
    print(text)
    print(f"results: {folder.path}/table.md, table.csv, table.json, figure.png")
