"""Multinomial logistic regression: the paper's (strongly) convex model."""

import flax.linen as nn
import jax

from permfl_jax.models.layers import Linear
from permfl_jax.models.spec import ModelSpec


class MCLR(nn.Module):
    """Flatten, one linear layer. Convex; strongly convex with `--l2`.

    Attributes:
      num_classes: C.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, ...]` to logits `[B, C]`."""
        return Linear(self.num_classes, name="linear")(x.reshape(x.shape[0], -1))


def mclr(spec: ModelSpec) -> nn.Module:
    """784 -> 10 has 7,850 parameters."""
    return MCLR(spec.num_classes)
