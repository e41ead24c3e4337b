"""Which samples one gradient step sees: the definition of a step.

A device with n samples and batch size B passes over its samples in P = ceil(n/B)
batches: batch p of a pass holds positions pB .. min((p+1)B, n)-1 of that pass's order,
so the last batch of a pass may be smaller, and a device with n <= B sees all its
samples in every step. The loss of a step is the mean over the samples really in the
batch. Step number s of a device (its `cursor`, which counts on across rounds) is batch
s mod P of pass s div P. With `shuffle` each pass has its own order, drawn from (seed,
device, pass); with `cyclic` every pass keeps the stored order.
"""

import jax
import jax.numpy as jnp

from permfl_jax import shuffle
from permfl_jax.types import Batch


def positions(
    batching: str, batch_size: int, key: jax.Array, cursor: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Positions within ONE device's samples for the step numbered `cursor`.

    Args:
      batching: `shuffle` or `cyclic`.
      batch_size: B.
      key: the device's stream key; every pass folds its number into it.
      cursor: `[]` int32, steps taken so far.
      count: `[]` int32, n.

    Returns:
      `[B]` int32 positions in `[0, n)`, and `[B]` bool, true where the batch is real.
    """
    per_pass = (count + batch_size - 1) // batch_size
    place = (cursor % per_pass) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    real = place < count
    place = jnp.minimum(place, count - 1)
    if batching == "shuffle":
        pass_key = jax.random.fold_in(key, cursor // per_pass)
        place = shuffle.permute(pass_key, place, count)
    return place, real


def fetch(pool: Batch, start: jax.Array, position: jax.Array) -> Batch:
    """Rows `start + position` of every leaf: `[S, ...]` becomes `[B, ...]`."""
    rows = start + position
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=0, mode="clip"), pool)
