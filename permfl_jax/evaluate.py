"""PM, TM and GM of any method, over all devices."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import batches, placement, tree
from permfl_jax.cohort import Cohort
from permfl_jax.scores import Scores, means
from permfl_jax.types import Algorithm, Federation, State

_BLOCK = 64  # samples of one device scored together, at most
# Blocks scored together. On a CPU one at a time stays in the cache: 16 took twice as
# long for the convolutional network, and as long for a linear model.
_AT_ONCE = {"cpu": 1}
_AT_ONCE_ELSEWHERE = 16
_ADAPTED_BYTES = 2**28  # of models that are made, scored and forgotten, on each chip
# The models that are scored, in the order in which people read them.
LABELS = {
    "PM": "personal models",
    "PM_adapted": "personal, adapted now",
    "TM": "team models",
    "GM": "global model",
}
SPLITS = ("train", "validation", "test")


class Evaluator:
    """Scores models on a federation; compiled once per tier and split.

    The samples of a device are scored in blocks of up to 64, so the work follows the
    samples really there, also when devices differ much in size, and memory is bounded.
    """

    def __init__(self, metrics_fn: Any, federation: Federation):
        """Looks at how many samples there are.

        Args:
          metrics_fn: `(params, batch) -> {name: [B]}`, or `[B, C]` by class.
          federation: the data.
        """
        self._federation = federation
        self._metrics_fn = metrics_fn
        self._counts = {
            name: placement.to_host(getattr(federation, name).count) for name in SPLITS
        }

    def scores(
        self, tier: str, models: Any, splits: Sequence[str] = SPLITS
    ) -> dict[str, Scores]:
        """Scores one tier on each split that has samples.

        Args:
          tier: `device` (leaves `[D, ...]`), `team` (`[M, ...]`), `server` (`[...]`) or
            `adapted`: a function from a cohort to its devices' models `[A, ...]`.
          models: the tier's models.
          splits: of `train`, `validation` and `test`.
        """
        if tier != "adapted":
            parts = [(0, self._on_chip, models)]
        else:
            parts = self._adapted_in_parts(models)
            tier = "device"
        totals: dict[str, Any] = {}
        for first, size, part in parts:
            for split in splits:
                if self._counts[split].any():
                    more = self._score(tier, part, split, first, size)
                    so_far = totals.get(split)
                    totals[split] = (
                        more if so_far is None else jax.tree.map(np.add, so_far, more)
                    )
        return {
            split: Scores(self._counts[split], totals.get(split, {}))
            for split in splits
        }

    @property
    def _on_chip(self):
        chips = placement.num_chips(self._federation.placement)
        return len(self._counts["train"]) // chips

    def _adapted_in_parts(self, adapt):
        """Yields as many devices of each chip at a time as are asked for."""
        where = self._federation.placement
        everyone = Cohort.everyone(self._federation)
        all_bytes = sum(
            x.size * x.dtype.itemsize
            for x in jax.tree.leaves(jax.eval_shape(adapt, everyone))
        )
        most = where.device_chunk
        if most is None:
            each = max(all_bytes // len(self._counts["train"]), 1)
            most = max(_ADAPTED_BYTES // each, 1)
        size = placement.largest_divisor(self._on_chip, most)
        if size == self._on_chip:
            yield 0, size, adapt(everyone)
            return
        team = placement.to_host(self._federation.team)
        own = np.arange(len(team), dtype=np.int32).reshape(-1, self._on_chip)
        for first in range(0, self._on_chip, size):
            device = own[:, first : first + size].reshape(-1)
            device, slot = placement.by_device(where, (device, team[device]))
            yield first, size, adapt(Cohort(device, slot, None, placement=where))

    def _score(self, tier, models, split, first, size):
        """Sums over the devices `first : first + size` of each chip."""
        samples = getattr(self._federation, split)
        where = self._federation.placement
        block = min(_BLOCK, samples.max_count)
        at_once = _AT_ONCE.get(placement.platform(where), _AT_ONCE_ELSEWHERE)
        count = self._counts[split].reshape(-1, self._on_chip)
        blocks = _blocks(count, block, at_once, first, size)
        return placement.to_host(
            _score(
                self._metrics_fn,
                tier,
                where,
                block,
                at_once,
                models,
                self._federation.team,
                samples,
                *placement.by_device(where, blocks),
                jnp.int32(first),
            )
        )

    def rows(
        self, models: dict[str, tuple[str, Any]], splits: Sequence[str] = SPLITS
    ) -> dict[str, float]:
        """One flat row for all models: `PM/accuracy` is pooled over test samples.

        Args:
          models: label (`PM`, `TM`, `GM`) to (tier, models), as `models_of` gives.
          splits: which to score.

        Returns:
          `LABEL/NAME` on test and `LABEL/SPLIT/NAME` on train and validation, where
          NAME is as of `scores.means`.
        """
        row: dict[str, float] = {}
        for label, (tier, model) in models.items():
            for split, scores in self.scores(tier, model, splits).items():
                prefix = label if split == "test" else f"{label}/{split}"
                row |= {f"{prefix}/{k}": value for k, value in means(scores).items()}
        return row


def models_of(
    algorithm: Algorithm,
    key: jax.Array,
    hparams: Any,
    state: State,
    federation: Federation,
) -> dict[str, tuple[str, Any]]:
    """The models to score: `PM`, `TM`, `GM` where the method has them.

    `PM` are the device models that training left. When not every device takes part in
    every exchange, or personal models are not kept, `PM_adapted` are all devices
    adapted now from their team's model, made while they are scored.
    """
    models = {}
    for label, tier in (("PM", "device"), ("TM", "team"), ("GM", "server")):
        if getattr(state, tier) is not None:
            models[label] = (tier, getattr(state, tier))
    if algorithm.personalize is not None:

        def adapt(cohort):
            return _adapt(
                algorithm.personalize, key, hparams, state, federation, cohort
            )

        models["PM_adapted"] = ("adapted", adapt)
    return models


_adapt = jax.jit(
    lambda personalize, *args: personalize(*args), static_argnames=("personalize",)
)


def _blocks(
    count: np.ndarray, block: int, at_once: int, first: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of some devices of each chip: whose, and the first position, flat.

    Args:
      count: `[chips, D / chips]`.
      block: samples in a block, at most.
      at_once: the number of blocks is a multiple of this.
      first: of the devices of each chip.
      size: how many devices.
    """
    per_device = -(-count // block)
    # As many for every chip and part, so that nothing compiles twice.
    parts = per_device.reshape(len(count), -1, size).sum(axis=-1)
    most = -(-int(parts.max()) // at_once) * at_once
    device = np.full((len(count), most), first, np.int32)
    # Blocks that start past the end of a device count nothing.
    start = np.full((len(count), most), count.max(), np.int32)
    for chip, needed in enumerate(per_device[:, first : first + size]):
        whose = np.repeat(np.arange(size), needed)
        within = np.arange(len(whose)) - np.repeat(np.cumsum(needed) - needed, needed)
        device[chip, : len(whose)] = whose + first
        start[chip, : len(whose)] = within * block
    return device.reshape(-1), start.reshape(-1)


def _sum(values, real):
    """Over the samples that are real; what has a class axis keeps it."""
    mask = real.reshape(real.shape + (1,) * (values.ndim - 1))
    return jnp.where(mask, values, 0).sum(axis=0)


# At module level, so that another evaluator of the same task does not compile again.
@functools.partial(
    jax.jit, static_argnames=("metrics_fn", "tier", "where", "block", "at_once")
)
def _score(
    metrics_fn, tier, where, block, at_once, models, team, samples, device, start, first
):
    """Sums of each score over the samples of each device, `{name: [D]}`."""

    def on_chip(models, team, pool, begin, count, device, start, first):
        teams = jax.tree.leaves(models)[0].shape[0] if tier == "team" else 0
        own_team = team - placement.first_in_row(where, teams)

        def one(block_of):
            owner, offset = block_of
            index = {"device": owner - first, "team": own_team[owner], "server": None}
            params = tree.take(models, index[tier])
            place = offset + jnp.arange(block, dtype=jnp.int32)
            real = place < count[owner]
            last = jnp.maximum(count[owner] - 1, 0)
            batch = batches.fetch(pool, begin[owner], jnp.minimum(place, last))
            values = metrics_fn(params, batch)
            return {k: _sum(v, real) for k, v in values.items()}

        size = None if at_once == 1 else at_once
        sums = jax.lax.map(one, (device, start), batch_size=size)
        return jax.tree.map(lambda x: jax.ops.segment_sum(x, device, len(count)), sums)

    by_device = placement.BY_DEVICE
    tiers = {
        "device": by_device,
        "team": placement.BY_TEAM,
        "server": placement.EVERYWHERE,
    }
    specs = (tiers[tier], *[by_device] * 6, placement.EVERYWHERE)
    return placement.per_chip(where, on_chip, specs, by_device)(
        models, team, samples.pool, samples.start, samples.count, device, start, first
    )
