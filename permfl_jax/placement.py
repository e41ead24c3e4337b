"""Devices spread over chips, and over time on one chip: the only place that knows.

Chips form a mesh of (`team`, `device`) axes, as the algorithm is tiered: teams are
dealt out to the rows of the mesh, the devices of a row's teams to its columns. A team's
mean then stays inside a row (a host's fast links); only team models cross rows.

Everything between the tiers is written once, for all devices, and divided by XLA. What
XLA cannot know to be local is mapped over the chips by hand, with `per_chip`: which
rows a device's samples are, who its team is.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from permfl_jax.errors import InputError
from permfl_jax.types import Federation, Placement, Samples, State

# How an array lies on the mesh, by its leading axis.
BY_DEVICE = PartitionSpec(("team", "device"))
BY_TEAM = PartitionSpec("team")
EVERYWHERE = PartitionSpec()

# A CPU core computes as many devices at once as fit its cache with what a step touches;
# more fall out of it, fewer leave small models waiting for calls. Other chips want all
# devices in one batched product. Measured in docs/performance.md.
_CPU_CACHE_BYTES = 2**18
# Chips that would hold this much more than an equal share of the samples are not used.
_MOST_PADDING = 1.25


def num_chips(placement: Placement) -> int:
    """How many chips the devices are divided over."""
    return 1 if placement.mesh is None else placement.mesh.size


def num_rows(placement: Placement) -> int:
    """How many rows of chips the teams are divided over."""
    return 1 if placement.mesh is None else placement.mesh.shape["team"]


def per_chip(
    placement: Placement, function: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """`function` of the part of its arguments that each chip holds.

    Args:
      placement: without a mesh, `function` itself is returned.
      function: of arrays; may use `axis` inside for collectives.
      in_specs: one of the specs above per argument.
      out_specs: likewise for what it returns.
    """
    if placement.mesh is None:
        return function
    # Parameters reach the gradient as one part per chip, never as one copy for all, so
    # nothing is summed over chips behind our back (ECOSYSTEM: the varying cast).
    return jax.shard_map(
        function,
        mesh=placement.mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,
    )


def first_on_chip(placement: Placement, per_chip_count: int) -> jax.Array | int:
    """Inside `per_chip`: number of the chip's first device, if each has so many."""
    if placement.mesh is None:
        return 0
    return jax.lax.axis_index(("team", "device")) * per_chip_count


def first_in_row(placement: Placement, per_row_count: int) -> jax.Array | int:
    """Inside `per_chip`: number of the row's first team, if each has so many."""
    if placement.mesh is None:
        return 0
    return jax.lax.axis_index("team") * per_row_count


def total(
    placement: Placement, value: Any, axes: str | tuple[str, ...] = "device"
) -> Any:
    """Inside `per_chip`: sums over the chips of a row, or over all."""
    return value if placement.mesh is None else jax.lax.psum(value, axes)


def devices_at_once(placement: Placement, num_devices: int, step_bytes: int) -> int:
    """How many of a chip's devices are computed together; a divisor of `num_devices`.

    This is where vmap (all), a loop (1) or something between is chosen, by shape, at
    trace time.

    Args:
      placement: its `device_chunk` has precedence: the largest divisor up to it.
      num_devices: on the chip.
      step_bytes: what one step of one device reads and writes.
    """
    most = placement.device_chunk
    if most is None:
        on_cpu = platform(placement) == "cpu"
        most = _CPU_CACHE_BYTES // max(step_bytes, 1) if on_cpu else num_devices
    return largest_divisor(num_devices, max(most, 1))


def largest_divisor(number: int, most: int | None) -> int:
    """Of `number`, up to `most`: equal parts, so that nothing compiles twice."""
    most = number if most is None else min(most, number)
    return next(n for n in range(most, 0, -1) if number % n == 0)


def platform(placement: Placement) -> str:
    """`cpu`, `gpu` or `tpu`."""
    if placement.mesh is None:
        return jax.default_backend()
    return placement.mesh.devices.flat[0].platform


def choose_mesh(
    federation: Federation, chips: Sequence[jax.Device] | None = None
) -> Mesh | None:
    """The largest mesh that divides the federation evenly; `None` for one chip.

    Args:
      federation: on the host.
      chips: default: all chips of all processes.

    Returns:
      Rows divide the teams, with as many devices in each row, where that is possible:
      then a team mean needs no message between rows. Chips beyond the largest divisor
      of the number of devices stay idle, and so do chips when samples are so unequal
      that storing them per chip would take a quarter more memory than there is.
    """
    chips = list(jax.devices() if chips is None else chips)
    sizes = np.bincount(np.asarray(federation.team))
    count = np.asarray(federation.train.count)
    for number in range(min(len(chips), len(count)), 1, -1):
        if len(count) % number == 0 and _padding(count, number) <= _MOST_PADDING:
            rows = _rows(sizes, number)
            grid = np.asarray(chips[:number]).reshape(rows, number // rows)
            return Mesh(grid, ("team", "device"), axis_types=(AxisType.Auto,) * 2)
    return None


def _padding(count, number):
    """Rows that are stored over rows that are real, on so many chips."""
    per_chip_rows = count.reshape(number, -1).sum(axis=1)
    return per_chip_rows.max() * number / max(count.sum(), 1)


def _rows(sizes, number):
    """The most rows that divide the chips and the teams, with equal devices in each."""
    for rows in range(math.gcd(number, len(sizes)), 1, -1):
        if number % rows == 0 and len(sizes) % rows == 0:
            in_row = sizes.reshape(rows, -1).sum(axis=1)
            if (in_row == in_row[0]).all():
                return rows
    return 1


def place(
    federation: Federation,
    mesh: Mesh | None = None,
    device_chunk: int | None = None,
) -> Federation:
    """Puts a federation on its chips.

    Args:
      federation: from `from_arrays` or `assemble.build`, not placed yet.
      mesh: with axes `team` and `device`, from `choose_mesh`; `None` for one chip.
      device_chunk: see `Placement`.

    Returns:
      The same federation: results do not change but for rounding. Each chip stores its
      own devices' samples, filled up to the most that a chip has.

    Raises:
      InputError: the mesh does not divide the federation evenly, `device_chunk` < 1.
    """
    if device_chunk is not None and device_chunk < 1:
        raise InputError(f"--device_chunk must be at least 1, got {device_chunk}.")
    placement = Placement(mesh, device_chunk)
    if mesh is None:
        return dataclasses.replace(
            jax.tree.map(jnp.asarray, federation), placement=placement
        )
    _check_mesh(np.asarray(federation.team), mesh)
    return Federation(
        train=_place_samples(federation.train, mesh),
        validation=_place_samples(federation.validation, mesh),
        test=_place_samples(federation.test, mesh),
        team=_put(federation.team, mesh, BY_DEVICE),
        identity=_put(federation.identity, mesh, BY_DEVICE),
        placement=placement,
    )


def _check_mesh(team, mesh):
    if mesh.axis_names != ("team", "device"):
        raise InputError(f"mesh has axes {mesh.axis_names}, not ('team', 'device').")
    rows, sizes = mesh.shape["team"], np.bincount(team)
    even = len(team) % mesh.size == 0 and len(sizes) % rows == 0
    if even:
        in_row = sizes.reshape(rows, -1).sum(axis=1)
        even = (in_row == in_row[0]).all()
    if not even:
        raise InputError(
            f"a mesh of {rows} x {mesh.shape['device']} chips does not divide "
            f"{len(sizes)} teams with {len(team)} devices evenly; use "
            "placement.choose_mesh."
        )


def _place_samples(samples, mesh):
    count = np.asarray(samples.count).reshape(mesh.size, -1)
    most = int(count.sum(axis=1).max())
    begin = np.concatenate([[0], count.sum(axis=1).cumsum()])

    def leaf(pool):
        pool = np.asarray(pool)
        shape = (mesh.size * most, *pool.shape[1:])

        def rows(index):
            chip = (index[0].start or 0) // max(most, 1)
            part = pool[begin[chip] : begin[chip + 1]]
            fill = [(0, most - len(part))] + [(0, 0)] * (pool.ndim - 1)
            return part if len(part) == most else np.pad(part, fill)

        sharding = NamedSharding(mesh, BY_DEVICE)
        return jax.make_array_from_callback(shape, sharding, rows)

    start = (count.cumsum(axis=1) - count).reshape(-1).astype(np.int32)
    return Samples(
        pool=jax.tree.map(leaf, samples.pool),
        start=_put(start, mesh, BY_DEVICE),
        count=_put(samples.count, mesh, BY_DEVICE),
        max_count=samples.max_count,
    )


def _put(array, mesh, spec):
    array = np.asarray(array)
    return jax.make_array_from_callback(
        array.shape, NamedSharding(mesh, spec), lambda index: array[index]
    )


def by_device(placement: Placement, arrays: Any) -> Any:
    """Arrays from the host, `[chips · n, ...]`, each chip its own part."""
    if placement.mesh is None:
        return jax.tree.map(jnp.asarray, arrays)
    return jax.tree.map(lambda x: _put(x, placement.mesh, BY_DEVICE), arrays)


def to_host(arrays: Any) -> Any:
    """NumPy copies, also of what other processes hold; all processes must ask."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)


def constrain(state: State, placement: Placement, num_devices: int) -> State:
    """Under `jit`: every tier on the chips that compute it.

    Args:
      state: any method's.
      placement: the federation's.
      num_devices: D, to know arrays of `state.extra` with a row for every device.
    """
    if placement.mesh is None:
        return state

    def lay(spec):
        sharding = NamedSharding(placement.mesh, spec)
        return lambda x: jax.lax.with_sharding_constraint(x, sharding)

    def lay_extra(x):
        by_device = x.ndim and x.shape[0] == num_devices
        return lay(BY_DEVICE if by_device else EVERYWHERE)(x)

    return State(
        round=lay(EVERYWHERE)(state.round),
        cursor=lay(BY_DEVICE)(state.cursor),
        device=jax.tree.map(lay(BY_DEVICE), state.device),
        team=jax.tree.map(lay(BY_TEAM), state.team),
        server=jax.tree.map(lay(EVERYWHERE), state.server),
        extra=jax.tree.map(lay_extra, state.extra),
    )
