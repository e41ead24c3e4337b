"""From the folder of a run to its models: flags, data and checkpoint, read back."""

import dataclasses
import os
import pathlib
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp

from permfl_jax import checkpoints, deploy, models
from permfl_jax.errors import InputError

from . import config, experiment, job, machine, report_folder
from .finished import Finished
from .sample_files import Form


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
    built = experiment.build(settings)
    partition = recorded.get("partition")
    before = partition.get("sha256") if isinstance(partition, dict) else None
    if before != built.report["sha256"]:
        raise InputError(
            f"--workdir={workdir} holds a run on other data than "
            f"--dataset={settings.dataset} has now: their partitions differ."
        )
    form, apply = _form_and_apply(settings)
    return Finished(built, _state(workdir, built, arrays), form, apply)


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
    sizes = given["team_sizes"]
    batch_size = given["batch_size"] or 0
    config._check_numbers(given | {"num_teams": len(sizes), "batch_size": batch_size})
    config._team_sizes(len(sizes), tuple(sizes))
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
    }
    return config.Config(**values)


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


def _form_and_apply(settings):
    """The task's model before its loss; `task.Task` has only the loss and scores."""
    examples = experiment._load(settings)
    spec = models.ModelSpec(
        dataset=settings.dataset,
        sample_shape=examples.x.shape[1:],
        num_classes=examples.num_classes,
        hidden=settings.hidden,
    )
    module = models.build(settings.model, spec)
    scale, offset = examples.scale, examples.offset

    def apply(params, x) -> Any:
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        return module.apply({"params": params}, x.astype(dtype) * scale + offset)

    form = Form(examples.x.shape[1:], examples.x.dtype, examples.num_classes)
    return form, apply


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
