"""k classes for each device, every class used equally often.

Devices come one after another, in random order, and each takes the k classes that
were used least so far, ties by lot. So a device has k distinct classes, and two
classes differ by at most one in how many devices hold them, without any repair. The
examples of a class, in random order, are split equally among its holders: parts
differ by at most one.

This is the pathological split of FedAvg (sorted by label, cut into shards, two shards
for each device) for any k and without its accidents: a shard there can span two
classes, and both shards of a device can be of one class.

Sizes follow from the classes alone: `--min_samples` is not used, since filling up a
device would bring it other classes. With fewer slots than classes, `D k < C`, some
classes have no holder and their examples are left out.

References:
  McMahan et al., "Communication-Efficient Learning of Deep Networks from
  Decentralized Data", arXiv:1602.05629, section 3.
"""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.dealing import deal, shuffled_classes
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize


def classes(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Deals `examples` by the rule above; see the module.

    Args:
      rng: the only source of randomness.
      examples: has `y` `[S]` integers and `num_classes`.
      options: `classes_per_device` is k, at most the classes that have examples.

    Returns:
      The partition; it uses every example of a class that some device holds.

    Raises:
      InputError: if there are fewer than k classes, or a class has fewer examples
        than devices that are to hold it.
    """
    sizes = np.bincount(examples.y, minlength=examples.num_classes)
    present = np.flatnonzero(sizes)
    if not 1 <= options.classes_per_device <= len(present):
        raise InputError(
            f"--classes_per_device={options.classes_per_device} was given, but the "
            f"dataset allows 1 to {len(present)}."
        )
    held = np.zeros((options.num_devices, examples.num_classes))
    held[:, present] = hold(
        rng, options.num_devices, options.classes_per_device, len(present)
    )
    _check_sizes(sizes, held.sum(axis=0).astype(np.int64))
    rows = shuffled_classes(rng, examples.y, examples.num_classes)
    indices = deal(rows, held)
    return Partition(indices, summarize(indices, len(examples.y)))


def hold(
    rng: np.random.Generator, num_devices: int, per_device: int, num_classes: int
) -> np.ndarray:
    """`[D, C]` bool: who holds which class; k in each row, balanced columns."""
    held = np.zeros((num_devices, num_classes), bool)
    used = np.zeros(num_classes, np.int64)
    for device in rng.permutation(num_devices):
        least = np.lexsort((rng.random(num_classes), used))[:per_device]
        held[device, least] = True
        used[least] += 1
    return held


def _check_sizes(sizes, holders):
    short = np.flatnonzero(sizes < holders)
    if short.size:
        label = short[0]
        raise InputError(
            f"Class {label} has {sizes[label]} samples, too few for the "
            f"{holders[label]} devices that are to hold it: lower --devices_per_team "
            "or --classes_per_device."
        )
