"""Classes made rare, one more than the other.

Of class c, in the order of their labels, a share of f^(-c/(C-1)) is kept, chosen at
random: the last of C classes has 1/f of what it had.

References:
  Exponential long tails as in Cui et al., "Class-Balanced Loss Based on Effective
  Number of Samples", CVPR 2019, arXiv:1901.05555.
"""

import math

import numpy as np

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError

_MOST = 1e6


def thin(examples: Examples, factor: float, seed: int) -> Examples:
    """Leaves out examples of the later classes.

    Args:
      examples: the dataset.
      factor: f, 1 to 1,000,000; 1 keeps everything.
      seed: of who goes. A larger factor leaves out the same and more.

    Returns:
      The rest in their order; at least one of each class that has any.

    Raises:
      InputError: another factor.

    Examples:
      >>> y = np.repeat(np.arange(3, dtype=np.int32), 100)
      >>> x = np.zeros((300, 1), np.float32)
      >>> rest = thin(Examples(x, y, 3, 1.0, 0.0), 100, seed=0)
      >>> np.bincount(rest.y).tolist()
      [100, 10, 1]
    """
    if not 1 <= factor <= _MOST:
        raise InputError(
            f"--class_imbalance={factor:g} was given; 1 to {_MOST:,.0f} is allowed."
        )
    if factor == 1:
        return examples
    order = np.random.default_rng([seed, 0x7A11]).permutation(len(examples.y))
    kept = np.zeros(len(order), bool)
    for label in range(examples.num_classes):
        own = order[examples.y[order] == label]
        share = factor ** (-label / max(examples.num_classes - 1, 1))
        kept[own[: math.ceil(share * len(own) - 1e-9)]] = True
    rows = np.flatnonzero(kept)
    return examples._replace(
        **{
            name: getattr(examples, name)[rows]
            for name in ("x", "y", "device", "group")
            if getattr(examples, name) is not None
        }
    )
