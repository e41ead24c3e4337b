"""Layers laid out for many small models at once, initialised as PyTorch does.

Weights are stored (out, in): batched over devices, both the forward product and the
weight gradient then run along contiguous memory. A convolution is patches times a
matrix: under `vmap` over devices a native convolution becomes a grouped one, which is
several times slower on CPU.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(±1/√fan_in), PyTorch's default for weights and biases."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """`x @ weightᵀ + bias`.

    Attributes:
      features: outputs.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., in]` to `[..., features]`."""
        init = torch_uniform(x.shape[-1])
        weight = self.param("weight", init, (self.features, x.shape[-1]))
        bias = self.param("bias", init, (self.features,))
        product = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
        return product + bias.reshape(*[1] * (x.ndim - 1), -1)


class Conv(nn.Module):
    """Convolution of stride 1 as patches times a matrix.

    Attributes:
      features: output channels.
      window: side k of the square kernel.
      padding: zeros added on each side.
    """

    features: int
    window: int
    padding: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, in]` to `[B, H', W', features]`."""
        pad = self.padding
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        patches = jnp.concatenate(_shifts(x, self.window, 1), axis=-1)
        return Linear(self.features, name="kernel")(patches)


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Largest of each window: `[B, H, W, C]` to `[B, H', W', C]`, without padding."""
    shifts = _shifts(x, window, stride)
    largest = shifts[0]
    for shifted in shifts[1:]:
        largest = jnp.maximum(largest, shifted)
    return largest


def _shifts(x, window, stride):
    """The k² views of `x` that together hold every window, `[B, H', W', C]` each."""
    height = (x.shape[1] - window) // stride + 1
    width = (x.shape[2] - window) // stride + 1
    return [
        x[:, i : i + stride * (height - 1) + 1 : stride][
            :, :, j : j + stride * (width - 1) + 1 : stride
        ]
        for i, j in itertools.product(range(window), repeat=2)
    ]
