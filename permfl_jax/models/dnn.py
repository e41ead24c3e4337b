"""Fully connected network with one or two hidden layers."""

import math

import flax.linen as nn
import jax

from permfl_jax.errors import InputError
from permfl_jax.models.layers import Linear
from permfl_jax.models.spec import ModelSpec

_WIDEST = 100_000


class DNN(nn.Module):
    """Flatten, hidden layers with ReLU, linear output.

    Attributes:
      num_classes: C.
      hidden: width of each hidden layer.
    """

    num_classes: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, ...]` to logits `[B, C]`."""
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.hidden):
            x = nn.relu(Linear(width, name=f"hidden_{index}")(x))
        return Linear(self.num_classes, name="output")(x)


def dnn(spec: ModelSpec) -> nn.Module:
    """One hidden layer as in the released code, or what `spec.hidden` says.

    100 units from 784 inputs on (79,510 parameters on MNIST), else 20 (1,430 on
    Synthetic). The paper's text speaks of two layers: `--hidden=20,20`.

    Raises:
      InputError: not one or two layers, or a width out of range.
    """
    hidden = spec.hidden or ((100,) if math.prod(spec.sample_shape) >= 784 else (20,))
    if len(hidden) > 2 or min(hidden) < 1 or max(hidden) > _WIDEST:
        raise InputError(
            f"--hidden takes one or two widths of 1 to {_WIDEST}, got "
            f"{','.join(map(str, hidden))}."
        )
    return DNN(spec.num_classes, tuple(hidden))
