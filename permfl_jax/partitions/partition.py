"""What every partition scheme is given and gives back.

A scheme is a function `(rng, examples, options) -> Partition`. It reads from
`examples` the labels `y` `[S]`, `num_classes` and, where it follows them, the natural
owners `device` and groups `group`; it never touches the samples. Draws come from a
NumPy generator, because a partition is made once, on the host, and has to be the same
on every machine.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from permfl_jax.errors import InputError

# Beyond these a Dirichlet draw is one corner, or its mean, to the last bit that counts.
_ALPHA_LOW, _ALPHA_HIGH = 1e-6, 1e6
_MOST_SIGMA = 100.0  # e^(100 z) stays a float64


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionOptions:
    """What a scheme is asked for; M teams, D devices. Each scheme reads what it names.

    Attributes:
      team_sizes: `[M]`, devices of each team; a scheme that makes teams gives them
        consecutive devices, the others only need the sum, D.
      class_windows: `[D, J]` integers, the classes that each device may hold, or
        `None` for a scheme that does not follow windows.
      classes_per_device: k of `classes`.
      dirichlet_alpha: α of `dirichlet` and `domains`.
      team_alpha: concentration of the teams of `two_level_dirichlet`.
      device_alpha: concentration of its devices around their team.
      quantity_sigma: σ of the sizes of `quantity`.
      min_samples: fewest samples of a device, or an equal share where that is less;
        for `dirichlet`, `domains`, `quantity` and `two_level_dirichlet`.

    Raises:
      InputError: a team without a device, or a number outside its range.
    """

    team_sizes: tuple[int, ...]
    class_windows: np.ndarray | None = None
    classes_per_device: int = 2
    dirichlet_alpha: float = 0.5
    team_alpha: float = 0.5
    device_alpha: float = 1.0
    quantity_sigma: float = 1.0
    min_samples: int = 10

    def __post_init__(self):
        if not self.team_sizes or min(self.team_sizes) < 1:
            raise InputError(
                f"Teams of {list(self.team_sizes)} devices were asked for, but at "
                "least one team is needed and at least one device in each "
                "(--devices_per_team)."
            )
        for name in ("dirichlet_alpha", "team_alpha", "device_alpha"):
            _check_range(name, getattr(self, name), _ALPHA_LOW, _ALPHA_HIGH)
        _check_range("quantity_sigma", self.quantity_sigma, 0, _MOST_SIGMA)
        if self.min_samples < 1:
            raise InputError(
                f"--min_samples={self.min_samples} was given, but every device needs "
                "at least 1."
            )

    @property
    def num_devices(self) -> int:
        """D."""
        return sum(self.team_sizes)


def _check_range(name, value, low, high):
    if not low <= value <= high:  # also a NaN
        raise InputError(
            f"--{name}={value} was given, but a number from {low:g} to {high:g} is "
            "allowed."
        )


class Partition(NamedTuple):
    """Who owns which examples. No example has two owners; some may have none.

    Attributes:
      indices: D arrays of int64, the rows of `examples` that each device owns.
      report: plain numbers: `samples_used`, `samples_available`, `samples_min`,
        `samples_median` and `samples_max` over the devices, and what the scheme adds
        (see its function).
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
    indices: Sequence[np.ndarray], samples_available: int, **more: float
) -> dict[str, float]:
    """The report of a partition: the keys of `Partition`, and `more`."""
    sizes = np.array([len(rows) for rows in indices])
    return {
        "samples_used": int(sizes.sum()),
        "samples_available": samples_available,
        "samples_min": int(sizes.min()),
        "samples_median": float(np.median(sizes)),
        "samples_max": int(sizes.max()),
        **more,
    }
