"""A task is a model with its loss and its scores: what federated methods train."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from permfl_jax.types import Batch, LossFn, Params


class Task(NamedTuple):
    """Pure functions; any of them may be written by hand.

    Attributes:
      init: `(key) -> params`.
      loss: `(params, batch[, key]) -> [B]`, one loss per sample.
      metrics: `(params, batch) -> {name: [B]}`, one score per sample.
      logits: `(params, x) -> [B, C]`, of samples as they are stored; what a finished
        model is applied with.
    """

    init: Callable[[jax.Array], Params]
    loss: LossFn
    metrics: Callable[[Params, Batch], dict[str, jax.Array]]
    logits: Callable[[Params, jax.Array], jax.Array] | None = None


def classification(
    module: Any,
    sample: Any,
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    l2: float = 0.0,
    random: bool = False,
) -> Task:
    """Cross-entropy on `{'x': [B, ...], 'y': [B]}` with any flax module.

    Args:
      module: `module.apply({'params': params}, x) -> logits [B, C]`.
      sample: one `x`, `[...]`, for its shape.
      scale: the module sees `x * scale + offset` in float; samples may stay uint8.
      offset: see `scale`.
      l2: adds `l2/2 |params|²` to the loss, which makes MCLR strongly convex.
      random: the module draws numbers while training (dropout): it is then called
        with `train=True` and a `dropout` key.

    Examples:
      >>> import flax.linen as nn
      >>> task = classification(nn.Dense(3), jnp.zeros(2, jnp.float32))
      >>> task.init(jax.random.key(0))['kernel'].shape
      (2, 3)
    """

    def see(x):
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        return x.astype(dtype) * scale + offset

    def penalised(params, scores, labels):
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels)
        if l2:
            losses = losses + 0.5 * l2 * optax.tree.norm(params, squared=True)
        return losses

    def init(key):
        return module.init(key, see(jnp.asarray(sample)[None]))["params"]

    def logits(params, x):
        return module.apply({"params": params}, see(x))

    def loss(params, batch):
        return penalised(params, logits(params, batch["x"]), batch["y"])

    def random_loss(params, batch, key):
        known, x = {"params": params}, see(batch["x"])
        drawn = module.apply(known, x, train=True, rngs={"dropout": key})
        return penalised(params, drawn, batch["y"])

    def metrics(params, batch):
        scores = logits(params, batch["x"])
        guess = scores.argmax(-1)
        return {
            "accuracy": (guess == batch["y"].astype(guess.dtype)).astype(scores.dtype),
            "loss": penalised(params, scores, batch["y"]),
        }

    return Task(init, random_loss if random else loss, metrics, logits)
