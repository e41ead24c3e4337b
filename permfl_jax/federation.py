"""A `Federation` from your own arrays, and questions about one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import placement
from permfl_jax.errors import InputError
from permfl_jax.types import Batch, Federation, Samples


def from_arrays(
    train: Sequence[Batch],
    teams: Sequence[int | str],
    *,
    validation: Sequence[Batch] | None = None,
    test: Sequence[Batch] | None = None,
    num_classes: int | None = None,
) -> Federation:
    """Makes a federation of your own data.

    Devices may come in any order, hold any number of samples, and form teams of any
    sizes. Samples are stored without padding.

    Args:
      train: D pytrees, one per device, of NumPy arrays that share their leading
        axis, for instance `{'x': [n_d, 784], 'y': [n_d]}` with n_d >= 1.
      teams: D labels, all integers or all strings. Teams are numbered in the order
        of the sorted labels.
      validation: as `train`, but n_d may be 0; `None` is no sample anywhere.
      test: as `validation`.
      num_classes: C, to have labels `y` checked: integers from 0 to C - 1.

    Returns:
      The federation, its devices sorted by team and else in the given order.
      `identity` says where a device stood in `train`. 64-bit data becomes 32-bit
      unless `jax_enable_x64` is set.

    Raises:
      InputError: if the data are not as above, or hold a NaN or an infinity.

    Examples:
      >>> import numpy as np
      >>> small = {'x': np.zeros((3, 2), np.float32), 'y': np.array([0, 1, 1])}
      >>> large = {'x': np.ones((5, 2), np.float32), 'y': np.array([1, 0, 0, 0, 1])}
      >>> federation = from_arrays([small, large, small], ['b', 'a', 'b'])
      >>> federation.train.count.tolist(), team_sizes(federation)
      ([5, 3, 3], (1, 2))
    """
    if not len(train):
        raise InputError("`train` lists no device, but at least one is needed.")
    team = _team_numbers(teams, len(train))
    order = np.argsort(team, kind="stable")
    layout = _layout(train[0])
    federation = Federation(
        train=_samples(layout, "train", train, order),
        validation=_samples(layout, "validation", validation, order),
        test=_samples(layout, "test", test, order),
        team=jnp.asarray(team[order], jnp.int32),
        identity=jnp.asarray(order, jnp.uint32),
    )
    if num_classes is not None:
        for part in ("train", "validation", "test"):
            _check_labels(part, getattr(federation, part).pool, num_classes)
    return federation


def num_devices(federation: Federation) -> int:
    """D."""
    return len(federation.identity)


def num_teams(federation: Federation) -> int:
    """M; on the host, not under `jit`."""
    return len(team_sizes(federation))


def team_sizes(federation: Federation) -> tuple[int, ...]:
    """`[M]`, the devices of each team; on the host, not under `jit`."""
    return tuple(np.bincount(placement.to_host(federation.team)).tolist())


def class_counts(samples: Samples, num_classes: int) -> np.ndarray:
    """How many samples of each class each device has; on the host.

    Args:
      samples: its pool is a dict with `y` `[S]`, integers from 0 to C - 1.
      num_classes: C.

    Returns:
      `[D, C]` int64.
    """
    labels = np.asarray(samples.pool["y"])
    spans = zip(np.asarray(samples.start), np.asarray(samples.count), strict=True)
    return np.stack(
        [np.bincount(labels[a : a + n], minlength=num_classes) for a, n in spans]
    )


class _Layout(NamedTuple):
    """What every device must look like: the first one of `train`."""

    structure: Any
    names: list[str]
    dtypes: list[np.dtype]
    shapes: list[tuple[int, ...]]  # without the leading axis


def _flatten(part, device, tree):
    """Names and arrays of one device's leaves, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path) or "(the only one)" for path, _ in leaves]
    arrays = [np.asarray(leaf) for _, leaf in leaves]
    for name, array in zip(names, arrays, strict=True):
        if not array.ndim:
            raise InputError(
                f"Leaf {name} of device {device} of `{part}` is a single value, but "
                "every leaf needs a leading axis of samples."
            )
    return names, arrays, structure


def _layout(device):
    names, arrays, structure = _flatten("train", 0, device)
    if not arrays:
        raise InputError("Device 0 of `train` has no array, but needs at least one.")
    for name, array in zip(names, arrays, strict=True):
        if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise InputError(
                f"Leaf {name} of device 0 of `train` has dtype {array.dtype}, but "
                "numbers or booleans are needed."
            )
    dtypes = [array.dtype for array in arrays]
    return _Layout(structure, names, dtypes, [array.shape[1:] for array in arrays])


def _arrays(layout, part, device, tree):
    """The leaves of one device, views of what the user gave, once they are checked."""
    _, arrays, structure = _flatten(part, device, tree)
    who = f"device {device} of `{part}`"
    if structure != layout.structure:
        raise InputError(
            f"The structure of {who} is {structure}, but that of device 0 of `train` "
            f"is {layout.structure}."
        )
    for name, array, shape, dtype in zip(
        layout.names, arrays, layout.shapes, layout.dtypes, strict=True
    ):
        if array.shape[1:] != shape or array.dtype != dtype:
            raise InputError(
                f"A sample in leaf {name} of {who} is {array.dtype} of shape "
                f"{array.shape[1:]}, but in device 0 of `train` it is {dtype} of "
                f"shape {shape}."
            )
        if len(array) != len(arrays[0]):
            raise InputError(
                f"Leaf {name} of {who} has {len(array)} samples, but leaf "
                f"{layout.names[0]} has {len(arrays[0])}."
            )
    return arrays


def _samples(layout, part, devices, order):
    """Pools one part. `devices` stand in the user's order; `None` is no sample."""
    if devices is None:
        nothing = [
            np.zeros((0, *shape), dtype)
            for shape, dtype in zip(layout.shapes, layout.dtypes, strict=True)
        ]
        devices = [jax.tree.unflatten(layout.structure, nothing)] * len(order)
    if len(devices) != len(order):
        raise InputError(
            f"`{part}` lists {len(devices)} devices, but `train` lists {len(order)}."
        )
    arrays = [_arrays(layout, part, d, tree) for d, tree in enumerate(devices)]
    count = np.array([len(arrays[d][0]) for d in order])
    if part == "train" and not count.all():
        raise InputError(
            f"Device {order[np.argmin(count)]} of `train` has no sample, but every "
            "device needs at least one to train on."
        )
    pool = [
        _pool(f"Leaf {name} of device {{}} of `{part}`", [a[i] for a in arrays], order)
        for i, name in enumerate(layout.names)
    ]
    return Samples(
        pool=jax.tree.unflatten(layout.structure, pool),
        start=jnp.asarray(np.cumsum(count) - count, jnp.int32),
        count=jnp.asarray(count, jnp.int32),
        max_count=int(count.max()),
    )


def _pool(name, arrays, order):
    """One leaf of all devices, `[S, ...]`, converted to JAX's dtype as it is copied."""
    dtype = jax.dtypes.canonicalize_dtype(arrays[0].dtype)
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
    return jnp.asarray(pool)


def _check_labels(part, pool, num_classes):
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


def _team_numbers(teams, count):
    """`[D]` int64: the place of each device's label among the sorted labels."""
    labels = np.asarray(teams).tolist() if hasattr(teams, "dtype") else list(teams)
    if len(labels) != count:
        raise InputError(
            f"`teams` lists {len(labels)} labels, but `train` lists {count} devices."
        )
    for kind in (str, (int, np.integer)):
        if all(isinstance(label, kind) for label in labels):
            # Not by np.unique, which takes 'a' and 'a\0' for the same.
            number = {label: i for i, label in enumerate(sorted(set(labels)))}
            return np.array([number[label] for label in labels])
    raise InputError(
        "`teams` mixes kinds of labels, but needs one label per device, all of them "
        "integers or all of them strings."
    )
