"""The paper's convolutional networks, one per image dataset."""

from typing import NamedTuple

import flax.linen as nn
import jax

from permfl_jax.errors import InputError
from permfl_jax.models.layers import Conv, Flatten, Linear, max_pool
from permfl_jax.models.spec import ModelSpec


class Plan(NamedTuple):
    """Widths of a CNN.

    Attributes:
      channels: of each convolution; ReLU and a pool of 2 follow each.
      window: side of the kernels.
      padding: of the convolutions.
      stride: of the pools.
      hidden: widths of the fully connected layers before the output.
      dropout: rate after each hidden layer while training.
    """

    channels: tuple[int, ...]
    window: int
    padding: int
    stride: int
    hidden: tuple[int, ...]
    dropout: float = 0.0


_MNIST = Plan((16, 32), window=2, padding=0, stride=1, hidden=(128,))
PLANS = {
    "digits": _MNIST,
    "mnist": _MNIST,
    "emnist_digits": _MNIST,
    "femnist": _MNIST,
    "fashion_mnist": Plan((32, 64), window=3, padding=1, stride=2, hidden=(128,)),
    "cifar10": Plan(
        (16, 32, 64), window=3, padding=1, stride=2, hidden=(512, 64), dropout=0.5
    ),
    "cifar100": Plan((64, 128, 256), window=3, padding=1, stride=2, hidden=(512,)),
}


class CNN(nn.Module):
    """Convolutions with ReLU and pooling, then fully connected layers.

    Attributes:
      num_classes: C.
      plan: widths.
    """

    num_classes: int
    plan: Plan

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[B, H, W]` or `[B, H, W, channels]` to logits `[B, C]`."""
        plan = self.plan
        x = x.reshape(*x.shape[:3], -1).transpose(1, 3, 2, 0)
        for index, width in enumerate(plan.channels):
            x = Conv(width, plan.window, plan.padding, name=f"conv_{index}")(x)
            # The same as ReLU before the pool, on fewer numbers.
            x = nn.relu(max_pool(x, 2, plan.stride))
        for index, width in enumerate(plan.hidden):
            layer = Linear if index else Flatten
            x = nn.relu(layer(width, name=f"hidden_{index}")(x))
            if plan.dropout:
                x = nn.Dropout(plan.dropout, deterministic=not train)(x)
        return Linear(self.num_classes, name="output")(x)


def cnn(spec: ModelSpec) -> nn.Module:
    """The CNN for `spec.dataset`: 2,362,874 parameters on MNIST.

    Raises:
      InputError: the samples are not images, or no CNN is known for the dataset.
    """
    if spec.dataset not in PLANS or len(spec.sample_shape) not in (2, 3):
        raise InputError(
            f"--model=cnn has no network for --dataset={spec.dataset}; it knows "
            f"{', '.join(PLANS)}, so choose one of these or --model=mclr or dnn."
        )
    return CNN(spec.num_classes, PLANS[spec.dataset])
