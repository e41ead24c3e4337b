"""PM, TM and GM of any method, over all devices."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import batches, tree
from permfl_jax.types import Algorithm, Federation, Params, Samples, State

_BLOCK = 64  # samples of one device scored together
_BLOCKS_AT_ONCE = 16
# The models that are scored, in the order in which people read them.
LABELS = {
    "PM": "personal models",
    "PM_adapted": "personal, adapted now",
    "TM": "team models",
    "GM": "global model",
}
SPLITS = ("train", "validation", "test")


class Scores(NamedTuple):
    """Sums over each device's own samples.

    Attributes:
      count: `[D]` samples.
      total: name of a score, such as `accuracy` or `loss`, to its sum, `[D]`.
    """

    count: np.ndarray
    total: dict[str, np.ndarray]


class Evaluator:
    """Scores models on a federation; compiled once per tier and split.

    The samples of a device are scored in blocks of 64, so the work follows the samples
    really there, also when devices differ much in size, and memory is bounded.
    """

    def __init__(self, metrics_fn: Any, federation: Federation):
        """Prepares the list of blocks.

        Args:
          metrics_fn: `(params, batch) -> {name: [B]}`.
          federation: the data.
        """
        self._federation = federation
        self._blocks = {name: _blocks(getattr(federation, name)) for name in SPLITS}
        self._metrics_fn = metrics_fn

    def scores(self, tier: str, models: Params, split: str) -> Scores:
        """Scores one tier on one split.

        Args:
          tier: `device` (leaves `[D, ...]`), `team` (`[M, ...]`) or `server` (`[...]`).
          models: the tier's models.
          split: `train`, `validation` or `test`.
        """
        samples = getattr(self._federation, split)
        count = np.asarray(samples.count)
        if not count.any():
            return Scores(count, {})
        total = _score(
            self._metrics_fn,
            tier,
            models,
            self._federation.team,
            samples,
            *self._blocks[split],
        )
        return Scores(count, jax.device_get(total))

    def rows(
        self, models: dict[str, tuple[str, Params]], splits: Sequence[str] = SPLITS
    ) -> dict[str, float]:
        """One flat row for all models: `PM/accuracy` is pooled over test samples.

        Args:
          models: label (`PM`, `TM`, `GM`) to (tier, models), as `models_of` gives.
          splits: which to score.

        Returns:
          `LABEL/NAME` on test and `LABEL/SPLIT/NAME` on train and validation, where
          NAME is a score, `device_mean_SCORE`, or `worst_decile_accuracy`.
        """
        row: dict[str, float] = {}
        for label, (tier, model) in models.items():
            for split in splits:
                prefix = label if split == "test" else f"{label}/{split}"
                scores = self.scores(tier, model, split)
                means = pooled(scores) | spread(scores)
                row |= {f"{prefix}/{name}": value for name, value in means.items()}
        return row


def models_of(
    algorithm: Algorithm,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
) -> dict[str, tuple[str, Params]]:
    """The models to score: `PM`, `TM`, `GM` where the method has them.

    `PM` are the device models that training left; when not every device takes part in
    every exchange, `PM_adapted` are all devices adapted now from their team's model.
    """
    models = {}
    for label, tier in (("PM", "device"), ("TM", "team"), ("GM", "server")):
        if getattr(state, tier) is not None:
            models[label] = (tier, getattr(state, tier))
    if algorithm.personalize is not None:
        adapt = jax.jit(algorithm.personalize)
        models["PM_adapted"] = ("device", adapt(key, hparams, state, federation))
    return models


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


def majority_accuracy(train_counts: np.ndarray, test_counts: np.ndarray) -> float:
    """Pooled test accuracy of guessing each device's commonest training label.

    Args:
      train_counts: `[D, C]` training samples per class.
      test_counts: `[D, C]` test samples per class.
    """
    guess = train_counts.argmax(axis=1)
    hits = np.take_along_axis(test_counts, guess[:, None], axis=1)
    return float(hits.sum() / test_counts.sum())


def _blocks(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Device and first position of every block of at most 64 samples, `[K]` each."""
    count = np.asarray(samples.count)
    per_device = -(-count // _BLOCK)
    device = np.repeat(np.arange(len(per_device)), per_device)
    within = np.arange(len(device)) - np.repeat(
        np.cumsum(per_device) - per_device, per_device
    )
    # Blocks past the end of device 0 fill the last group: a remainder of another size
    # would compile a second time.
    fill = -len(device) % _BLOCKS_AT_ONCE
    device = np.pad(device, (0, fill))
    first = np.pad(within * _BLOCK, (0, fill), constant_values=count[0])
    return device.astype(np.int32), first.astype(np.int32)


# At module level, so that another evaluator of the same task does not compile again.
@functools.partial(jax.jit, static_argnames=("metrics_fn", "tier"))
def _score(metrics_fn, tier, models, team, samples, device, first):
    """Sums of each score over the samples of each device, `{name: [D]}`."""

    def block(where):
        owner, offset = where
        index = {"device": owner, "team": team[owner], "server": None}[tier]
        params = tree.take(models, index)
        place = offset + jnp.arange(_BLOCK, dtype=jnp.int32)
        count = samples.count[owner]
        batch = batches.fetch(
            samples.pool, samples.start[owner], jnp.minimum(place, count - 1)
        )
        values = metrics_fn(params, batch)
        return {k: jnp.where(place < count, v, 0).sum() for k, v in values.items()}

    sums = jax.lax.map(block, (device, first), batch_size=_BLOCKS_AT_ONCE)
    num_devices = samples.count.shape[0]
    return jax.tree.map(lambda x: jax.ops.segment_sum(x, device, num_devices), sums)
