"""Which chips, in which rows and columns, divide a federation evenly."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from permfl_jax.errors import InputError
from permfl_jax.types import Federation

# Chips are not used when filling all up to the fullest would take a quarter more memory
# than the samples, and more than this many bytes.
_MOST_PADDING, _MOST_PADDING_BYTES = 1.25, 2**30


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
      that storing them per chip would take a quarter (and a GiB) more memory. Every
      process lends as many chips; the chips of a process stand together.

    Raises:
      InputError: there are several processes, and no such mesh has chips of all.
    """
    by_process: dict[int, list[jax.Device]] = {}
    for chip in jax.devices() if chips is None else chips:
        by_process.setdefault(chip.process_index, []).append(chip)
    processes = [by_process[index] for index in sorted(by_process)]
    sizes = np.bincount(np.asarray(federation.team))
    count = np.asarray(federation.train.count)
    row_bytes = _row_bytes(federation.train.pool)
    for each in range(min(map(len, processes)), 0, -1):
        number = each * len(processes)
        if number > 1 and _fits(count, number, row_bytes):
            rows = _rows(sizes, number, len(processes))
            lent = [chip for own in processes for chip in own[:each]]
            grid = np.asarray(lent).reshape(rows, -1)
            return Mesh(grid, ("team", "device"), axis_types=(AxisType.Auto,) * 2)
    if len(processes) > 1:
        raise InputError(
            f"{len(count)} devices cannot be divided over {len(processes)} processes: "
            "their number, or their samples, would be too unequal; start fewer."
        )
    return None


def _fits(count, number, row_bytes):
    """As many devices on each of so many chips, and not much filling up."""
    if len(count) % number:
        return False
    stored = count.reshape(number, -1).sum(axis=1).max() * number
    filling = (stored - count.sum()) * row_bytes
    return stored <= _MOST_PADDING * count.sum() or filling <= _MOST_PADDING_BYTES


def _row_bytes(pool):
    """Of one sample; as many as there can be where samples are not loaded yet."""
    if callable(pool):
        return _MOST_PADDING_BYTES
    return sum(x.nbytes // max(len(x), 1) for x in jax.tree.leaves(pool))


def _rows(sizes, number, processes):
    """The most rows that divide the chips and the teams, with equal devices in each.

    Rather fewer where a row then lies within one process.
    """
    fit = [r for r in range(1, number + 1) if number % r == 0 and even(sizes, r)]
    return max(fit, key=lambda rows: (rows % processes == 0, rows))


def even(sizes: np.ndarray, rows: int) -> bool:
    """As many teams in each row, and as many devices."""
    if len(sizes) % rows:
        return False
    in_row = sizes.reshape(rows, -1).sum(axis=1)
    return bool((in_row == in_row[0]).all())
