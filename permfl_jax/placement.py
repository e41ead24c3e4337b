"""Devices spread over chips, and over time on one chip: the only place that knows.

Chips form a mesh of (`team`, `device`) axes, as the algorithm is tiered: teams are
dealt out to the rows of the mesh, the devices of a row's teams to its columns. A team's
mean then stays inside a row (a host's fast links); only team models cross rows.

Everything between the tiers is written once, for all devices, and divided by XLA. What
XLA cannot know to be local is mapped over the chips by hand, with `per_chip`: which
rows a device's samples are, who its team is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from permfl_jax import hosts
from permfl_jax.errors import InputError
from permfl_jax.meshes import choose_mesh as choose_mesh
from permfl_jax.meshes import even
from permfl_jax.tree import largest_divisor as largest_divisor
from permfl_jax.types import Federation, Placement, State

# How an array lies on the mesh, by its leading axis.
BY_DEVICE = PartitionSpec(("team", "device"))
BY_TEAM = PartitionSpec("team")
EVERYWHERE = PartitionSpec()

# A CPU core computes as many devices at once as fit its cache with what a step touches;
# more fall out of it, fewer leave small models waiting for calls. Other chips want all
# devices in one batched product. Measured in docs/performance.md.
_CPU_CACHE_BYTES = 2**18


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
    # Checked, JAX sums a gradient by what all chips share over the chips. Here every
    # device's gradient is its own, also where devices start from one model.
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
    if placement.mesh is None:
        return value
    axes = (axes,) if isinstance(axes, str) else axes
    # A message from a chip to itself would be sent all the same.
    axes = tuple(axis for axis in axes if placement.mesh.shape[axis] > 1)
    return jax.lax.psum(value, axes) if axes else value


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


def platform(placement: Placement) -> str:
    """`cpu`, `gpu` or `tpu`."""
    if placement.mesh is None:
        here = jax.config.values["jax_default_device"]  # a context sets it
        return getattr(here, "platform", here) or jax.default_backend()
    return placement.mesh.devices.flat[0].platform


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
      InputError: the mesh does not divide the federation evenly, `device_chunk` < 1,
        or the federation is on a mesh already.
    """
    check_unplaced(federation)
    if device_chunk is not None and device_chunk < 1:
        raise InputError(f"--device_chunk must be at least 1, got {device_chunk}.")
    placement = Placement(mesh, device_chunk)
    if mesh is None:
        return dataclasses.replace(_here(federation), placement=placement)
    _check_mesh(np.asarray(federation.team), mesh)
    sharding = NamedSharding(mesh, BY_DEVICE)
    return Federation(
        train=hosts.put_samples(federation.train, sharding),
        validation=hosts.put_samples(federation.validation, sharding),
        test=hosts.put_samples(federation.test, sharding),
        team=hosts.put(federation.team, sharding),
        identity=hosts.put(federation.identity, sharding),
        placement=placement,
    )


def check_unplaced(federation: Federation) -> None:
    """Raises `InputError` if `start` no longer counts from the first of all samples."""
    if federation.placement.mesh is not None:
        raise InputError(
            "this federation is spread over chips already; give the one that "
            "from_arrays, from_loader or assemble.build returned."
        )


def _check_mesh(team, mesh):
    if mesh.axis_names != ("team", "device"):
        raise InputError(f"mesh has axes {mesh.axis_names}, not ('team', 'device').")
    rows, sizes = mesh.shape["team"], np.bincount(team)
    if len(team) % mesh.size or not even(sizes, rows):
        raise InputError(
            f"a mesh of {rows} x {mesh.shape['device']} chips does not divide "
            f"{len(sizes)} teams with {len(team)} devices evenly; use "
            "placement.choose_mesh."
        )


def _here(federation):
    """All on one chip, loaded if it has to be."""

    def load(samples):
        everyone = hosts.rows_of(samples, 0, len(samples.count))
        return dataclasses.replace(samples, pool=everyone)

    parts = {
        name: load(getattr(federation, name))
        for name in ("train", "validation", "test")
        if callable(getattr(federation, name).pool)
    }
    # By way of NumPy, since what was made on the host's CPU would else stay there.
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x)), dataclasses.replace(federation, **parts)
    )


def by_device(placement: Placement, arrays: Any) -> Any:
    """Arrays from the host, `[chips · n, ...]`, each chip its own part."""
    if placement.mesh is None:
        return jax.tree.map(jnp.asarray, arrays)
    sharding = NamedSharding(placement.mesh, BY_DEVICE)
    return jax.tree.map(lambda x: hosts.put(x, sharding), arrays)


def to_host(arrays: Any) -> Any:
    """NumPy copies, also of what other processes hold; all processes must ask."""
    return jax.tree.map(hosts.fetch, arrays)


def constrain(state: State, placement: Placement) -> State:
    """Under `jit`: every tier on the chips that compute it.

    Args:
      state: any method's; of `extra`, a field `device` has a row for every device.
      placement: the federation's.
    """
    if placement.mesh is None:
        return state

    def lay(spec):
        sharding = NamedSharding(placement.mesh, spec)
        return lambda x: jax.lax.with_sharding_constraint(x, sharding)

    def lay_extra(extra):
        if not hasattr(extra, "device"):
            return jax.tree.map(lay(EVERYWHERE), extra)
        rest = jax.tree.map(lay(EVERYWHERE), extra._replace(device=None))
        return rest._replace(device=jax.tree.map(lay(BY_DEVICE), extra.device))

    def lay_uploads(kept):
        if kept is None:
            return None
        teams = {"team": kept.team, "heard": kept.heard}
        return kept._replace(
            device=jax.tree.map(lay(BY_DEVICE), kept.device),
            **jax.tree.map(lay(BY_TEAM), teams),
        )

    return State(
        round=lay(EVERYWHERE)(state.round),
        cursor=lay(BY_DEVICE)(state.cursor),
        device=jax.tree.map(lay(BY_DEVICE), state.device),
        team=jax.tree.map(lay(BY_TEAM), state.team),
        server=jax.tree.map(lay(EVERYWHERE), state.server),
        extra=lay_extra(state.extra),
        uploads=lay_uploads(state.uploads),
    )
