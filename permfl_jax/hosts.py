"""What each process puts on its own chips; the rows of others are never asked for."""

import contextlib
import math
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from permfl_jax.types import Batch, Samples


def memory() -> float:
    """Bytes of memory of this machine, or that this process may take; ∞ if unknown."""
    found = math.inf
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on Windows
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource  # not on Windows
    except ImportError:
        return found
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return found if limit == resource.RLIM_INFINITY else min(found, limit)


def of_first(number: int) -> int:
    """What the first process says, in all processes; all of them must ask."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def put(array: ArrayLike, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, each chip its part."""
    whole = np.asarray(array)
    return jax.make_array_from_callback(
        whole.shape, sharding, lambda index: whole[index]
    )


def put_samples(samples: Samples, sharding: NamedSharding) -> Samples:
    """Each chip its own devices' rows, filled up to the most that a chip has.

    Args:
      samples: on the host; the pool of all devices, or a function that loads.
      sharding: divides devices, and the rows of the pool, over the chips.
    """
    mesh = sharding.mesh
    count = np.asarray(samples.count).reshape(mesh.size, -1)
    most, held = int(count.sum(axis=1).max()), count.shape[1]

    def on(chip, number):
        rows = rows_of(samples, number * held, (number + 1) * held)
        return jax.device_put(jax.tree.map(lambda x: _fill(x, most), rows), chip)

    own = [
        on(chip, number)
        for number, chip in enumerate(mesh.devices.flat)
        if chip.process_index == jax.process_index()
    ]

    def join(*parts):
        shape = (mesh.size * most, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, list(parts))

    start = (count.cumsum(axis=1) - count).reshape(-1).astype(np.int32)
    return Samples(
        pool=jax.tree.map(join, *own),
        start=put(start, sharding),
        count=put(samples.count, sharding),
        max_count=samples.max_count,
    )


def rows_of(samples: Samples, first: int, last: int) -> Batch:
    """The rows of devices `first : last`, one after another, on the host."""
    if callable(samples.pool):
        return samples.pool(first, last)
    start, count = (np.asarray(x)[first:last] for x in (samples.start, samples.count))
    if (start[1:] == (start + count)[:-1]).all():
        rows: Any = slice(int(start[0]), int(start[0] + count.sum()))
    else:  # devices have changed places, or some were left out
        own = zip(start, count, strict=True)
        rows = np.concatenate([np.arange(a, a + n) for a, n in own])
    return jax.tree.map(lambda x: np.asarray(x)[rows], samples.pool)


def _fill(rows, most):
    if len(rows) == most:
        return rows
    return np.pad(rows, [(0, most - len(rows))] + [(0, 0)] * (rows.ndim - 1))


def fetch(array: jax.Array) -> np.ndarray:
    """A NumPy copy, also of what other processes hold; all processes must ask."""
    here = not isinstance(array, jax.Array) or array.is_fully_addressable
    if here or array.is_fully_replicated:
        return jax.device_get(array)
    return multihost_utils.process_allgather(array, tiled=True)
