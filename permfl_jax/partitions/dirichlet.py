"""Label skew of adjustable strength: each class is shared out by a Dirichlet draw.

For every class c, the shares of the D devices are

    p_c ~ Dirichlet(α, ..., α)        [D]

and device d gets `p_c[d] n_c` of its n_c examples, to within one. So the share of one
device has mean 1 / D and variance `(D - 1) / (D² (D α + 1))`: for large α every device
is a sample of the whole, for small α each class lies at one device, and sizes differ
as well. Every example is used.

Authors draw until the smallest device has ten examples, which need not end with many
devices. Here devices below `--min_samples` are filled up from the largest
(`dealing.fill_up`), and the report counts the examples moved.

References:
  Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks",
  arXiv:1905.12022, and Li et al., "Federated Learning on Non-IID Data Silos",
  arXiv:2102.02079, with the same draw. Hsu et al., arXiv:1909.06335, draw the other
  way, the classes of each device, for devices of equal size; see
  `two_level_dirichlet` for that.
"""

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.partitions.dealing import (
    deal,
    draw_dirichlet,
    fill_up,
    shuffled_classes,
)
from permfl_jax.partitions.partition import Partition, PartitionOptions, summarize


def dirichlet(
    rng: np.random.Generator, examples: Examples, options: PartitionOptions
) -> Partition:
    """Deals `examples` by the law above; see the module.

    Args:
      rng: the only source of randomness.
      examples: has `y` `[S]` integers and `num_classes`.
      options: `dirichlet_alpha` is α; has `min_samples`.

    Returns:
      The partition; it uses every example. The report adds `samples_moved`.

    Raises:
      InputError: if there are fewer examples than devices.
    """
    shape = (examples.num_classes, options.num_devices)
    alpha = np.full(shape, options.dirichlet_alpha)
    shares = draw_dirichlet(rng, alpha).T
    rows = shuffled_classes(rng, examples.y, examples.num_classes)
    indices, moved = fill_up(rng, deal(rows, shares), options.min_samples)
    return Partition(indices, summarize(indices, len(examples.y), samples_moved=moved))
