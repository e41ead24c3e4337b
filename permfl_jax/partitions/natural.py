"""The owners that the dataset itself names: users, writers, hospitals.

With fewer devices than owners, the owners with most examples take part (of equal ones
those with the smaller number), and the others' examples are left out.
"""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.dealing import by_owner
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize


def natural(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Device d owns what the d-th smallest owner number that takes part owns.

    Args:
      rng: unused; nothing is drawn.
      examples: has `device` `[S]`, the number of each example's owner.
      options: `num_devices` is at most the number of owners.

    Returns:
      The partition, in the dataset's order; it uses every example of the owners that
      take part. The report adds `owners_left_out`.

    Raises:
      InputError: if the dataset names no owners, or fewer than `num_devices`.
    """
    del rng
    if examples.device is None:
        raise InputError(
            "--partition=natural was given, but this dataset names no owners; choose "
            "another --partition."
        )
    owners, number, counts = np.unique(
        examples.device, return_inverse=True, return_counts=True
    )
    left_out = len(owners) - options.num_devices
    if left_out < 0:
        raise InputError(
            f"{options.num_devices} devices were asked for, but with "
            f"--partition=natural this dataset has at most {len(owners)}: lower "
            "--devices_per_team."
        )
    by_size = np.argsort(-counts, kind="stable")
    chosen = np.sort(by_size[: options.num_devices])
    rows = by_owner(np.arange(len(number)), number, len(owners))
    indices = [rows[owner] for owner in chosen]
    report = summarize(indices, len(number), owners_left_out=left_out)
    return Partition(indices, report)
