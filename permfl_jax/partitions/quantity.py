"""Devices that differ in how much they hold, and in nothing else.

The examples, in random order, are cut into parts in proportion to

    s_d ~ lognormal(0, σ)

to within one example, so every device is a sample of the whole dataset and the share
of device d is `s_d / sum(s)`. With σ = 0 all have the same size; with σ = 2 the
largest of 40 devices holds 31 % of everything (median). Devices below
`--min_samples` are filled up from the largest (`dealing.fill_up`). Every example is
used.

References:
  Lognormal sizes as in the synthetic data of Li et al., arXiv:1812.06127 (σ = 2), and
  "quantity skew" of Kairouz et al., "Advances and Open Problems in Federated
  Learning", arXiv:1912.04977, section 3.1.
"""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.partitions.dealing import deal, fill_up
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize


def quantity(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Deals `examples` by the law above; see the module.

    Args:
      rng: the only source of randomness.
      examples: has `y` `[S]`, of which only the length is read.
      options: `quantity_sigma` is σ; has `min_samples`.

    Returns:
      The partition; it uses every example. The report adds `samples_moved`.

    Raises:
      InputError: if there are fewer examples than devices.
    """
    sizes = rng.lognormal(0.0, options.quantity_sigma, options.num_devices)
    shuffled = rng.permutation(len(examples.y))
    dealt = deal([shuffled], sizes[:, None])  # as if all were of one class
    indices, moved = fill_up(rng, dealt, options.min_samples)
    return Partition(indices, summarize(indices, len(examples.y), samples_moved=moved))
