"""One key for each purpose, all derived from the key of the run.

Nothing random hangs on how rounds are grouped into calls or on who else takes part.
"""

import jax

_BATCHES, _PARTICIPATION, _PERSONALIZE, _INIT, _MEASURE, _DRAWS, _UPLOADS = range(7)


def batch_key(key: jax.Array) -> jax.Array:
    """Key of all mini-batch streams; fold in a device's identity, then the pass."""
    return jax.random.fold_in(key, _BATCHES)


def participation_key(key: jax.Array, round_: jax.Array) -> jax.Array:
    """Key of who acts in global round t; fold in team, team round and device."""
    return jax.random.fold_in(jax.random.fold_in(key, _PARTICIPATION), round_)


def personalize_key(key: jax.Array) -> jax.Array:
    """Key of the mini-batches drawn when devices adapt outside of training."""
    return jax.random.fold_in(key, _PERSONALIZE)


def init_key(key: jax.Array) -> jax.Array:
    """Key of the initial model."""
    return jax.random.fold_in(key, _INIT)


def measure_key(key: jax.Array) -> jax.Array:
    """Key of the measurements before training."""
    return jax.random.fold_in(key, _MEASURE)


def draw_key(key: jax.Array) -> jax.Array:
    """Key of what a method itself draws: coins, weights, first choices."""
    return jax.random.fold_in(key, _DRAWS)


def upload_key(key: jax.Array, round_: jax.Array) -> jax.Array:
    """Key of what happens to uploads in round t; fold in tier, exchange and sender."""
    return jax.random.fold_in(jax.random.fold_in(key, _UPLOADS), round_)


def fold_each(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """One key per number: `[A]` keys from one key and `[A]` integers."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
