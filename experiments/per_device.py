"""What each device has and how its models do: WORKDIR/devices.npz.

A plain `.npz` without pickled objects, its devices in the order of partition.npz:
`partition`, the SHA-256 of that; `classes` `[D, C]`, samples of each class; and, once
the run is over, `round`, `count` `[D]`, test samples, and `correct/LABEL` `[D]`, how
many of them the models of `LABEL` (PM, TM, GM) get right.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from permfl_jax import evaluate, federation, placement, plain_files
from permfl_jax.errors import InputError
from permfl_jax.types import State

from .experiment import Experiment

NAME = "devices.npz"
_CORRECT = "correct/"


class Devices(NamedTuple):
    """What the file holds.

    Attributes:
      partition: SHA-256 of partition.npz.
      classes: `[D, C]`, samples of each class up to the last that anyone has, those
        of validation and test too.
      round: after which models were scored, `None` before.
      count: `[D]`, test samples, 0 before.
      correct: label to `[D]`, test samples that its models get right.
    """

    partition: str
    classes: np.ndarray
    round: int | None
    count: np.ndarray
    correct: dict[str, np.ndarray]


def classes(built: Experiment) -> np.ndarray:
    """`[D, C]`, who has how many samples of which class.

    Args:
      built: the experiment before `spread`, while its samples are those of devices.
    """
    parts = [getattr(built.federation, split) for split in evaluate.SPLITS]
    num_classes = 1 + max(
        int(np.max(np.asarray(part.pool["y"]), initial=0)) for part in parts
    )
    found = sum(federation.class_counts(part, num_classes) for part in parts)
    return _by_owner(built, found)


def write(
    path: pathlib.Path,
    built: Experiment,
    counts: np.ndarray,
    measured: dict[str, np.ndarray] | None = None,
) -> None:
    """Writes the file: as a run begins, and again once the run is over.

    Args:
      path: the folder of the run.
      built: the experiment.
      counts: from `classes`.
      measured: from `measure`, once the run is over.

    Raises:
      InputError: the file cannot be written.
    """
    arrays = {"partition": built.report["sha256"], "classes": counts}
    try:
        with plain_files.whole(path / NAME) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **(measured or {}))
    except OSError as error:
        raise InputError(f"{path / NAME} cannot be written ({error}).") from error


def measure(built: Experiment, state: State) -> dict[str, np.ndarray]:
    """Scores every device on its test samples; every process has to call it.

    Args:
      built: the experiment after `spread`.
      state: after the last round, not given away yet.

    Returns:
      What `write` takes.
    """
    key = jax.random.key(built.config.seed)
    traced = built.hparams.traced()
    models = evaluate.models_of(built.algorithm, key, traced, state, built.federation)
    evaluator = evaluate.Evaluator(built.task.metrics, built.federation)
    found = {"round": np.asarray(int(state.round))}
    for label, (tier, model) in models.items():
        scores = evaluator.scores(tier, model, ("test",))["test"]
        found["count"] = _by_owner(built, scores.count)
        correct = np.rint(scores.total["accuracy"])
        found[_CORRECT + label] = _by_owner(built, correct)
    return found


def _by_owner(built, values):
    """`[D, ...]` int32, no longer sorted by team."""
    identity = placement.to_host(built.federation.identity)
    result = np.zeros(values.shape, np.int32)
    result[identity] = values
    return result


def read(path: pathlib.Path) -> Devices | None:
    """What was written so far; `None` if nothing was.

    Args:
      path: the folder of the run.

    Raises:
      InputError: the file is not one that was written here.
    """
    try:
        return _checked(plain_files.read_arrays(path / NAME))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} holds a damaged {NAME}.") from error


def _checked(found: dict[str, Any]) -> Devices:
    classes, partition = found["classes"], found["partition"]
    correct = {
        name.removeprefix(_CORRECT): array
        for name, array in found.items()
        if name.startswith(_CORRECT)
    }
    round_ = int(found["round"]) if correct else None
    count = found["count"] if correct else np.zeros(len(classes), np.int32)
    if partition.dtype.kind != "U" or partition.shape or classes.ndim != 2:
        raise ValueError("of another kind")
    for array in (classes, count, *correct.values()):
        if array.dtype.kind != "i" or len(array) != len(classes) or array.min() < 0:
            raise ValueError("of another kind")
    for array in (count, *correct.values()):
        if array.ndim != 1 or (array > count).any():
            raise ValueError("of another kind")
    return Devices(str(partition), classes, round_, count, correct)
