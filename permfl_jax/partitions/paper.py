"""The authors' sliding-window, power-law partition of MNIST and FMNIST.

Each device has J slots, one for each class of its window. A slot of class c asks for

    10 + (2 if D <= 20 else 1) * (floor(p[c, r, j]) + uniform{300, ..., 600})

samples, where j is the place of the slot in its window, `r = 10 u // D` for device
u, and p is lognormal(0, 2), scaled to sum to `n_c - D` over all rows r and places j;
n_c is the number of samples of class c.

What differs from the authors' code, and why:

  * The constants were made for 70,000 images and 80 slots. Others are given

        scale = min(1, S / 70,000 * 80 / (slots * (2 if D <= 20 else 1)))

    of them: of the 10, at least 1, and of each uniform draw, both rounded down. S
    counts the samples of the classes that some slot holds: 20 devices with 3 of 100
    classes hold 22 of them. p needs no scaling, being a share of its class. So the
    constants claim about half of every source that has fewer samples or more slots,
    and 70,000 images over 40 x 2 or 20 x 2 slots get the authors' own.
  * Before any slot takes more, each is sure of 10 samples, or of an equal share of
    its class where that is less (or of all that it asks for, if that is less still).
  * Their p has D rows, of which device u reads row `u // (D // 10)`: a division by
    zero below 10 devices. Ours has at least 10 rows; for multiples of 10 nothing
    changes.
  * Their slot gets only its first 10 samples when its class has not enough left.
    Ours takes what is left, and the report counts it in `slots_cut`.
  * They take the samples of a class in the order of the file; ours are shuffled.
  * They draw from seeds 5 and 9. Ours come from `rng`, so sizes agree only in law.

References:
  `utils/model_utils.py` of https://github.com/sourasb05/PerMFL_1, and Banerjee et
  al., PerMFL, arXiv:2407.14251.
"""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.dealing import shuffled_classes
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize

_FIRST = 10  # what every slot is sure of
_EXTRA_LOW, _EXTRA_HIGH = 300, 600  # both included
_SAMPLES, _SLOTS = 70_000, 80  # what these constants were made for
_ROWS = 10  # rows of the lognormal table that are read
_FEW_DEVICES = 20  # up to here a slot asks for twice as much


def paper(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Cuts `examples` by the rule above; see the module.

    Args:
      rng: the only source of randomness.
      examples: has `y` `[S]` integers and `num_classes`.
      options: has `class_windows` `[D, J]`.

    Returns:
      The partition. Every slot has at least one sample. The report adds `slots`
      (pairs of device and class that were asked for) and `slots_cut` (those that got
      fewer samples than they asked for, because the class ran out).

    Raises:
      InputError: if a class has fewer samples than slots.
    """
    windows = options.class_windows
    class_rows = shuffled_classes(rng, examples.y, examples.num_classes)
    class_sizes = np.array([len(rows) for rows in class_rows])
    asked = _asked(rng, class_sizes, windows)
    taken = _serve(class_sizes, windows, asked)
    indices = _deal(class_rows, windows, taken)
    report = summarize(
        indices,
        samples_available=len(examples.y),
        slots=asked.size,
        slots_cut=int((taken < asked).sum()),
    )
    return Partition(indices, report)


def _asked(rng, class_sizes, windows):
    """`[D, J]` int64: how many samples each slot asks for."""
    num_devices, num_slots = windows.shape
    factor = 2 if num_devices <= _FEW_DEVICES else 1
    scale = _scale(class_sizes[np.unique(windows)], windows.size * factor)
    shape = (len(class_sizes), max(num_devices, _ROWS), num_slots)
    power = rng.lognormal(0.0, 2.0, shape)
    budget = np.maximum(class_sizes - num_devices, 0)
    power *= budget[:, None, None] / power.sum(axis=(1, 2), keepdims=True)
    row = np.arange(num_devices)[:, None] * _ROWS // num_devices
    share = np.floor(power[windows, row, np.arange(num_slots)])
    extra = rng.integers(_EXTRA_LOW, _EXTRA_HIGH, windows.shape, endpoint=True)
    more = factor * (share + np.floor(scale * extra))
    return max(1, int(scale * _FIRST)) + more.astype(np.int64)


def _scale(class_sizes, slots):
    """The part of the constants that this source can afford, at most all of them."""
    return min(1.0, (class_sizes.sum() / _SAMPLES) * (_SLOTS / slots))


def _serve(class_sizes, windows, asked):
    """`[D, J]` int64: what each slot gets; what is reserved for it, then in turn."""
    taken = np.minimum(asked, _reserved(class_sizes, windows))
    left = class_sizes.copy()
    np.subtract.at(left, windows, taken)
    for slot, label in np.ndenumerate(windows):
        more = min(asked[slot] - taken[slot], left[label])
        taken[slot] += more
        left[label] -= more
    return taken


def _reserved(class_sizes, windows):
    """`[D, J]` int64: what nobody else may take, 10 or the fair share of the class."""
    slots = np.bincount(windows.ravel(), minlength=len(class_sizes))
    short = np.flatnonzero(class_sizes < slots)
    if short.size:
        label = short[0]
        raise InputError(
            f"Class {label} has {class_sizes[label]} samples, too few for the "
            f"{slots[label]} devices that are to hold it: lower --devices_per_team or "
            "--classes_per_device."
        )
    return np.minimum(class_sizes // np.maximum(slots, 1), _FIRST)[windows]


def _deal(class_rows, windows, taken):
    """D arrays of int64: the rows of each device, class by class of its window."""
    place = np.zeros(len(class_rows), np.int64)
    indices = []
    for labels, counts in zip(windows, taken, strict=True):
        parts = []
        for label, count in zip(labels, counts, strict=True):
            parts.append(class_rows[label][place[label] : place[label] + count])
            place[label] += count
        indices.append(np.concatenate(parts))
    return indices
