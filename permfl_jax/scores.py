"""From sums over each device's samples to the numbers that people read."""

from typing import NamedTuple

import jax
import numpy as np

from permfl_jax.errors import InputError
from permfl_jax.task import Task


class Scores(NamedTuple):
    """Sums over each device's own samples.

    Attributes:
      count: `[D]` samples.
      total: name of a score, such as `accuracy` or `loss`, to its sum, `[D]`, or by
        class, `[D, C]`.
    """

    count: np.ndarray
    total: dict[str, np.ndarray]


def means(scores: Scores) -> dict[str, float]:
    """All that a row says of one tier on one split.

    Args:
      scores: of the tier.

    Returns:
      NAME, pooled over samples; `device_mean_NAME` and `worst_decile_accuracy` over
      devices; and `macro_f1` where scores are counted by class.
    """
    alone = {name: sums for name, sums in scores.total.items() if sums.ndim == 1}
    by_class = {k: v.sum(axis=0) for k, v in scores.total.items() if k not in alone}
    scores = scores._replace(total=alone)
    found = pooled(scores) | spread(scores)
    return found | {"macro_f1": macro_f1(**by_class)} if by_class else found


def pooled(scores: Scores) -> dict[str, float]:
    """Means over all samples of all devices."""
    return {k: float(v.sum() / scores.count.sum()) for k, v in scores.total.items()}


def spread(scores: Scores) -> dict[str, float]:
    """Over devices that have samples: means, and the 10th percentile of accuracy."""
    has = scores.count > 0
    per_device = {k: v[has] / scores.count[has] for k, v in scores.total.items()}
    result = {f"device_mean_{k}": float(v.mean()) for k, v in per_device.items()}
    if "accuracy" in per_device:
        worst = np.percentile(per_device["accuracy"], 10)
        result["worst_decile_accuracy"] = float(worst)
    return result


def by_class(task: Task) -> Task:
    """The same task whose scores are counted by class, too, for `macro_f1`.

    Args:
      task: a classification, with `logits`.

    Raises:
      InputError: it has none.
    """

    apply = task.logits
    if apply is None:
        raise InputError("scores by class need a task that has logits.")

    def metrics(params, batch):
        logits = apply(params, batch["x"])
        num_classes, dtype = logits.shape[-1], logits.dtype
        guess = jax.nn.one_hot(logits.argmax(-1), num_classes, dtype=dtype)
        label = jax.nn.one_hot(batch["y"], num_classes, dtype=dtype)
        counts = {"hits": guess * label, "guesses": guess, "labels": label}
        return task.metrics(params, batch) | counts

    return task._replace(metrics=metrics)


def macro_f1(hits: np.ndarray, guesses: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of 2 hits / (guesses + labels).

    Args:
      hits: `[C]`, samples of each class that were guessed right.
      guesses: `[C]`, samples that were guessed to be of it.
      labels: `[C]`, samples that are.

    Examples:
      >>> macro_f1(np.array([2, 0]), np.array([3, 0]), np.array([2, 1]))
      0.4
    """
    there = labels > 0
    return float((2 * hits / np.maximum(guesses + labels, 1))[there].mean())


def majority_accuracy(train_counts: np.ndarray, test_counts: np.ndarray) -> float:
    """Pooled test accuracy of guessing each device's commonest training label.

    Args:
      train_counts: `[D, C]` training samples per class.
      test_counts: `[D, C]` test samples per class.

    Examples:
      >>> majority_accuracy(np.array([[9, 1], [2, 8]]), np.array([[3, 1], [2, 2]]))
      0.625
    """
    guess = train_counts.argmax(axis=1)
    hits = np.take_along_axis(test_counts, guess[:, None], axis=1)
    return float(hits.sum() / test_counts.sum())
