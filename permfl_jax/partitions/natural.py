"""The owners that the dataset itself names: users, writers, hospitals."""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize


def natural(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Device d owns what the d-th smallest owner number of the dataset owns.

    Args:
      rng: unused; nothing is drawn.
      examples: has `device` `[S]`, the number of each example's owner.
      options: `num_devices` has to be the number of owners.

    Returns:
      The partition; it uses every example, in the dataset's order.

    Raises:
      InputError: if the dataset names no owners, or not `num_devices` of them.
    """
    del rng
    if examples.device is None:
        raise InputError(
            "--partition=natural was given, but this dataset names no owners; choose "
            "another --partition."
        )
    owners, counts = np.unique(examples.device, return_counts=True)
    if len(owners) != options.num_devices:
        raise InputError(
            f"{options.num_devices} devices were asked for, but with "
            f"--partition=natural this dataset has exactly {len(owners)}: change "
            "--devices_per_team."
        )
    by_owner = np.argsort(examples.device, kind="stable").astype(np.int64)
    indices = np.split(by_owner, np.cumsum(counts)[:-1])
    return Partition(indices, summarize(indices, len(examples.device)))
