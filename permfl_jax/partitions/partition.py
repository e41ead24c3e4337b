"""What every partition scheme is given and gives back.

A scheme is a function `(rng, examples, options) -> Partition`. It reads from
`examples` the labels `y` `[S]`, `num_classes` and, for natural owners, `device`; it
never touches the samples. Draws come from a NumPy generator, because a partition is
made once, on the host, and has to be the same on every machine.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from permfl_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionOptions:
    """What a scheme is asked for; D devices, J classes per device.

    Attributes:
      num_devices: D.
      class_windows: `[D, J]` integers, the classes that each device may hold, or
        `None` for a scheme that does not follow windows.
    """

    num_devices: int
    class_windows: np.ndarray | None = None

    def __post_init__(self):
        if self.num_devices < 1:
            raise InputError(
                f"A federation of {self.num_devices} devices was asked for, but it "
                "needs at least one (--devices_per_team)."
            )


class Partition(NamedTuple):
    """Who owns which examples. No example has two owners; some may have none.

    Attributes:
      indices: D arrays of int64, the rows of `examples` that each device owns.
      report: plain numbers: `samples_used`, `samples_available`, `samples_min`,
        `samples_median` and `samples_max` over the devices, `slots` (pairs of device
        and class that were asked for) and `slots_cut` (those that got fewer samples
        than they asked for, because the class ran out).
    """

    indices: list[np.ndarray]
    report: dict[str, float]


def sliding_windows(
    num_devices: int, classes_per_device: int, num_classes: int
) -> np.ndarray:
    """The default windows: slot j of device u holds class `(u + j) mod C`.

    Args:
      num_devices: D.
      classes_per_device: J, from 1 to `num_classes`.
      num_classes: C.

    Returns:
      `[D, J]` int64.

    Raises:
      InputError: if `classes_per_device` is not from 1 to C.
    """
    if not 1 <= classes_per_device <= num_classes:
        raise InputError(
            f"--classes_per_device={classes_per_device} was given, but the dataset "
            f"allows 1 to {num_classes}."
        )
    slots = np.arange(num_devices)[:, None] + np.arange(classes_per_device)
    return slots % num_classes


def summarize(
    indices: Sequence[np.ndarray],
    samples_available: int,
    slots: int = 0,
    slots_cut: int = 0,
) -> dict[str, float]:
    """The report of a partition; its keys are explained in `Partition`."""
    sizes = np.array([len(rows) for rows in indices])
    return {
        "samples_used": int(sizes.sum()),
        "samples_available": samples_available,
        "samples_min": int(sizes.min()),
        "samples_median": float(np.median(sizes)),
        "samples_max": int(sizes.max()),
        "slots": slots,
        "slots_cut": slots_cut,
    }
