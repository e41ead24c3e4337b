"""A `Federation` from your own arrays, and questions about one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import placement, pooling
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
    layout = pooling.layout_of(train[0], "device 0 of `train`")
    given = {"train": train, "validation": validation, "test": test}
    parts = {
        part: _pooled(layout, part, devices, order.tolist())
        for part, devices in given.items()
    }
    if num_classes is not None:
        for part in parts:
            pooling.check_labels(part, parts[part].pool, num_classes)
    return _federation(jax.tree.map(jnp.asarray, parts), team, order)


def _pooled(layout, part, devices, order):
    if devices is None:
        devices = [pooling.nothing(layout)] * len(order)
    if len(devices) != len(order):
        raise InputError(
            f"`{part}` lists {len(devices)} devices, but `train` lists {len(order)}."
        )
    return pooling.pooled(layout, part, devices, order)


def from_loader(
    load: Callable[[str, int], Batch],
    teams: Sequence[int | str],
    counts: Mapping[str, Sequence[int]],
    like: Batch,
) -> Federation:
    """A federation that `placement.place` loads, each process its own devices only.

    Args:
      load: `(part, device)` to the arrays that `from_arrays` would take; `part` is
        `train`, `validation` or `test`, `device` a place in `teams`. It is not asked
        for devices without samples.
      teams: as for `from_arrays`.
      counts: part to D numbers of samples; a part that is missing has none.
      like: arrays of one device, for their structure, shapes and dtypes alone.

    Returns:
      The federation without its samples, for `Sampler.of`, `placement.choose_mesh` and
      then `placement.place`, which raises InputError if `load` gives other arrays than
      `counts` and `like` promise.

    Raises:
      InputError: as `from_arrays`.
    """
    order = np.argsort(team := _team_numbers(teams, len(teams)), kind="stable")
    layout = pooling.layout_of(like, "`like`")
    nothing = pooling.nothing(layout)

    def promised(part):
        count = np.asarray(counts.get(part, [0] * len(team)))
        if count.shape != team.shape:
            raise InputError(
                f"`counts` lists {count.size} devices of `{part}`, but `teams` lists "
                f"{len(team)}."
            )
        pooling.check_count(part, count[order], order.tolist())

        def rows(first, last):
            own = order[first:last].tolist()
            some = {d: load(part, d) if count[d] else nothing for d in own}
            loaded = pooling.pooled(layout, part, some, own)
            if loaded.count.tolist() != count[own].tolist():
                raise InputError(
                    f"Devices {own} of `{part}` have {count[own].tolist()} samples by "
                    f"`counts`, but {loaded.count.tolist()} were loaded."
                )
            return loaded.pool

        return pooling.as_samples(rows, count[order])

    parts = {part: promised(part) for part in ("train", "validation", "test")}
    return _federation(parts, team, order)


def _federation(parts, team, order):
    return Federation(
        **parts,
        team=jnp.asarray(team[order], jnp.int32),
        identity=jnp.asarray(order, jnp.uint32),
    )


def num_devices(federation: Federation) -> int:
    """D."""
    return len(federation.identity)


def num_teams(federation: Federation) -> int:
    """M; on the host, not under `jit`."""
    return len(team_sizes(federation))


def team_sizes(federation: Federation) -> tuple[int, ...]:
    """`[M]`, the devices of each team; on the host, not under `jit`.

    Examples:
      >>> one = {'x': np.zeros((2, 3), np.float32)}
      >>> team_sizes(from_arrays([one] * 5, ['b', 'a', 'b', 'b', 'c']))
      (1, 3, 1)
    """
    return tuple(np.bincount(placement.to_host(federation.team)).tolist())


def of_teams(federation: Federation, teams: Sequence[int]) -> Federation:
    """Some of its teams as a federation of their own; the samples are not copied.

    Args:
      federation: on one chip, and loaded.
      teams: numbers from 0 to M - 1, each once; they are numbered anew in this order.

    Raises:
      InputError: no such team, one is named twice, or several chips.

    Examples:
      >>> one = {'x': np.zeros((2, 3), np.float32)}
      >>> whole = from_arrays([one] * 5, ['b', 'a', 'b', 'b', 'c'])
      >>> some = of_teams(whole, [2, 1])
      >>> team_sizes(some), some.identity.tolist()
      ((1, 3), [4, 0, 2, 3])
    """
    own, number = np.asarray(federation.team), num_teams(federation)
    if not len(teams) or len({*teams} & {*range(number)}) < len(teams):
        raise InputError(
            f"teams {list(teams)} were asked for; at least one is needed, each from 0 "
            f"to {number - 1} and once."
        )
    if federation.placement.mesh is not None:
        raise InputError("teams are taken out of a federation on one chip: --chips=1.")
    if callable(federation.train.pool):
        raise InputError("teams are taken out of what is loaded; place it first.")
    rows = np.concatenate([np.flatnonzero(own == team) for team in teams])
    sizes = [int((own == team).sum()) for team in teams]

    def taken(samples):
        start, count = samples.start[rows], samples.count[rows]
        return dataclasses.replace(samples, start=start, count=count)

    return dataclasses.replace(
        federation,
        train=taken(federation.train),
        validation=taken(federation.validation),
        test=taken(federation.test),
        team=jnp.asarray(np.repeat(np.arange(len(teams)), sizes), jnp.int32),
        identity=federation.identity[rows],
    )


def class_counts(samples: Samples, num_classes: int) -> np.ndarray:
    """How many samples of each class each device has; on the host.

    Args:
      samples: its pool is a dict with `y` `[S]`, integers from 0 to C - 1.
      num_classes: C.

    Returns:
      `[D, C]` int64.

    Examples:
      >>> devices = [{'y': np.array([0, 2, 2])}, {'y': np.array([1])}]
      >>> class_counts(from_arrays(devices, [0, 0]).train, 3).tolist()
      [[1, 0, 2], [0, 1, 0]]
    """
    labels = np.asarray(samples.pool["y"])
    spans = zip(np.asarray(samples.start), np.asarray(samples.count), strict=True)
    return np.stack(
        [np.bincount(labels[a : a + n], minlength=num_classes) for a, n in spans]
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
