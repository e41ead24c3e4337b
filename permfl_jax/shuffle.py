"""A keyed permutation of 0..n-1, evaluated only where it is asked.

Shuffling a device's samples once per pass would need a sort of every device's data,
or padding to the largest device. This needs neither: position i of pass p is computed
on the spot, so a device with 10 samples and one with 25,000 cost the same per batch,
and a run resumed in mid-pass continues it.

Source: Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle"
(swap-or-not), CRYPTO 2012. Used here for statistics, not for secrecy.
"""

import jax
import jax.numpy as jnp

# Each round leaves a card in place with probability 1/2; after 24, an order differs
# from a uniform one by less than any statistic over 10^6 passes would show.
_ROUNDS = 24


def permute(key: jax.Array, position: jax.Array, count: jax.Array) -> jax.Array:
    """Where a random permutation of `0..count-1` sends each position.

    Args:
      key: typed key; another key is another permutation.
      position: `[B]` int32 in `[0, count)`.
      count: `[]` int32, at least 1.

    Returns:
      `[B]` int32 in `[0, count)`; distinct positions give distinct results.
    """
    n = count.astype(jnp.uint32)
    here = position.astype(jnp.uint32)
    words = jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)

    def swap_or_not(here, word):
        pivot, salt = word
        there = jnp.where(pivot >= here, pivot - here, pivot - here + n)
        swap = _coin(salt, jnp.maximum(here, there))
        return jnp.where(swap, there, here), None

    # A loop, so that XLA cannot fuse the arithmetic into the fetch of the samples,
    # where it would be repeated for every feature.
    rounds = (words[:, 0] % n, words[:, 1])
    here, _ = jax.lax.scan(swap_or_not, here, rounds, unroll=4)
    return here.astype(jnp.int32)


def _coin(salt: jax.Array, value: jax.Array) -> jax.Array:
    """One hashed bit per value (the finaliser of MurmurHash3, public domain)."""
    x = value ^ salt
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return (x >> 31).astype(bool)
