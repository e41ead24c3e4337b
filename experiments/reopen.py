"""From the folder of a run to its models: flags, data and checkpoint, read back."""

import dataclasses
import os
import pathlib
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp

from permfl_jax import checkpoints, deploy
from permfl_jax.errors import InputError

from . import config, experiment, job, machine, report_folder
from .finished import Finished


def read(
    workdir: str, data_dir: str | None = None, manual_dir: str | None = None
) -> Finished:
    """Rebuilds a run from its folder and the dataset it names.

    Args:
      workdir: its folder.
      data_dir: where the dataset is now, if not where it was.
      manual_dir: likewise.

    Raises:
      InputError: there is no run, no checkpoint, or the data are others.
    """
    recorded = report_folder.read(workdir).config
    settings = _settings(workdir, recorded["flags"])
    moved = {"data_dir": data_dir, "manual_dir": manual_dir}
    given: dict[str, Any] = {
        name: value for name, value in moved.items() if value is not None
    }
    settings = dataclasses.replace(settings, workdir=workdir, **given)
    machine.set_precision(settings.precision)
    arrays = _arrays(workdir)
    built = experiment.build(settings, recorded)
    built.check_partition(workdir, recorded)
    return Finished(built, _state(workdir, built, arrays))


def _settings(workdir, given):
    """The flags of config.json, checked as those of a command line are."""
    fields = {field.name: field.type for field in dataclasses.fields(config.Config)}
    if given.keys() != fields.keys():
        names = ", ".join(sorted(given.keys() ^ fields.keys())[:5])
        raise InputError(
            f"--workdir={workdir} holds a run of another version (flags that are not "
            f"there or not known: {names})."
        )
    for name, kind in fields.items():
        if not _fits(given[name], kind):
            raise InputError(
                f"--workdir={workdir} holds a damaged config.json: {name} is "
                f"{given[name]!r}."
            )
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
    }
    settings = config.Config(**values)
    config.check(settings)
    return settings


def _fits(value: Any, kind: Any) -> bool:
    """Whether JSON gave what a field of `Config` holds."""
    inner = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _arrays(workdir):
    path = pathlib.Path(os.path.expanduser(workdir)) / "checkpoints"
    try:
        return checkpoints.read(path)[1]
    except InputError as error:
        raise InputError(
            f"--workdir={workdir} holds a run without a whole checkpoint; the command "
            "that began it goes on with it."
        ) from error


def _state(workdir, built, arrays):
    like = jax.eval_shape(lambda: job.start(built))
    expected = {
        name: (leaf.shape, leaf.dtype) for name, leaf in deploy.named(like).items()
    }
    if expected != {name: (x.shape, x.dtype) for name, x in arrays.items()}:
        raise InputError(
            f"--workdir={workdir} holds a checkpoint of another model or version."
        )
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
