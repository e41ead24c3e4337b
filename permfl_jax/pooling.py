"""The arrays of devices, checked and laid one after another."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax.errors import InputError
from permfl_jax.types import Batch, Samples


class Layout(NamedTuple):
    """What the arrays of every device must look like.

    Attributes:
      source: of all this, in words.
      structure: of the pytree.
      names: of the leaves.
      dtypes: of the leaves.
      shapes: of the leaves, without the leading axis.
    """

    source: str
    structure: Any
    names: list[str]
    dtypes: list[np.dtype]
    shapes: list[tuple[int, ...]]


def _flatten(who, tree):
    """Names and arrays of one device's leaves, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path) or "(the only one)" for path, _ in leaves]
    arrays = [np.asarray(leaf) for _, leaf in leaves]
    for name, array in zip(names, arrays, strict=True):
        if not array.ndim:
            raise InputError(
                f"Leaf {name} of {who} is a single value, but every leaf needs a "
                "leading axis of samples."
            )
    return names, arrays, structure


def layout_of(device: Batch, who: str) -> Layout:
    """The layout of a device that stands for all.

    Raises:
      InputError: no array, a single value, or something else than numbers.
    """
    names, arrays, structure = _flatten(who, device)
    if not arrays:
        raise InputError(f"There is no array in {who}, but at least one is needed.")
    for name, array in zip(names, arrays, strict=True):
        if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise InputError(
                f"Leaf {name} of {who} has dtype {array.dtype}, but numbers or "
                "booleans are needed."
            )
    dtypes = [array.dtype for array in arrays]
    shapes = [array.shape[1:] for array in arrays]
    return Layout(who, structure, names, dtypes, shapes)


def _arrays(layout, part, device, tree):
    """The leaves of one device, views of what the user gave, once they are checked."""
    who = f"device {device} of `{part}`"
    _, arrays, structure = _flatten(who, tree)
    if structure != layout.structure:
        raise InputError(
            f"The structure of {who} is {structure}, but that of {layout.source} is "
            f"{layout.structure}."
        )
    for name, array, shape, dtype in zip(
        layout.names, arrays, layout.shapes, layout.dtypes, strict=True
    ):
        if array.shape[1:] != shape or array.dtype != dtype:
            raise InputError(
                f"A sample in leaf {name} of {who} is {array.dtype} of shape "
                f"{array.shape[1:]}, but in {layout.source} it is {dtype} of shape "
                f"{shape}."
            )
        if len(array) != len(arrays[0]):
            raise InputError(
                f"Leaf {name} of {who} has {len(array)} samples, but leaf "
                f"{layout.names[0]} has {len(arrays[0])}."
            )
    return arrays


def nothing(layout: Layout) -> Batch:
    """A device without samples."""
    empty = [
        np.zeros((0, *shape), dtype)
        for shape, dtype in zip(layout.shapes, layout.dtypes, strict=True)
    ]
    return jax.tree.unflatten(layout.structure, empty)


def pooled(
    layout: Layout,
    part: str,
    devices: Sequence[Batch] | Mapping[int, Batch],
    order: Sequence[int],
) -> Samples:
    """The samples of devices `order`, one after another, once they are checked.

    Args:
      layout: what they must look like.
      part: `train`, `validation` or `test`.
      devices: by their number.
      order: the numbers.

    Returns:
      Samples, the pool in NumPy arrays.

    Raises:
      InputError: a device breaks the layout, holds a NaN or an infinity, or has nothing
        to train on.
    """
    arrays = {d: _arrays(layout, part, d, devices[d]) for d in sorted(order)}
    count = np.array([len(arrays[d][0]) for d in order])
    check_count(part, count, order)
    pool = [
        _pool(
            f"Leaf {name} of device {{}} of `{part}`",
            {d: leaves[i] for d, leaves in arrays.items()},
            order,
        )
        for i, name in enumerate(layout.names)
    ]
    return as_samples(jax.tree.unflatten(layout.structure, pool), count)


def check_count(part: str, count: np.ndarray, order: Sequence[int]) -> None:
    """Raises InputError for a device of `order` that has nothing to train on."""
    if part == "train" and not count.all():
        empty = order[int(np.argmin(count))]
        raise InputError(
            f"Device {empty} of `train` has no sample, but every device needs at least "
            "one to train on."
        )


def as_samples(pool: Any, count: np.ndarray) -> Samples:
    """`pool` of devices that have `count` samples each."""
    return Samples(
        pool=pool,
        start=jnp.asarray(np.cumsum(count) - count, jnp.int32),
        count=jnp.asarray(count, jnp.int32),
        max_count=int(count.max()),
    )


def _pool(name, arrays, order):
    """One leaf of devices `order`, in JAX's dtype, converted as it is copied."""
    dtype = jax.dtypes.canonicalize_dtype(arrays[order[0]].dtype)
    with np.errstate(over="ignore"):  # found below, where its device is known
        pool = np.concatenate(
            [arrays[d] for d in order], dtype=dtype, casting="same_kind"
        )
    start = 0
    for device in order:
        stored = pool[start : start + len(arrays[device])]
        start += len(stored)
        if jnp.issubdtype(dtype, np.inexact):
            if not np.isfinite(stored).all():
                raise InputError(
                    f"{name.format(device)} holds a NaN or an infinity as {dtype}, "
                    "but all numbers have to be finite."
                )
        elif dtype != arrays[device].dtype and (stored != arrays[device]).any():
            raise InputError(
                f"{name.format(device)} holds integers that do not fit {dtype}; set "
                "jax_enable_x64 or use smaller ones."
            )
    return pool


def check_labels(part: str, pool: Batch, num_classes: int) -> None:
    """Raises InputError for labels that are not integers from 0 to C - 1."""
    labels = np.asarray(pool["y"])
    if not jnp.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"Labels `y` of `{part}` are {labels.dtype}, but must be integers."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise InputError(
            f"Labels `y` of `{part}` run from {labels.min()} to {labels.max()}, but "
            f"must be 0 to {num_classes - 1}."
        )
