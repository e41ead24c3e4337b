"""Layers laid out for many small models at once, initialised as PyTorch does.

Weights of vectors are stored (out, in): batched over devices, both the forward
product and the weight gradient then run along contiguous memory.

Images are held as `[H, C, W, B]`, the batch innermost: a shift of the picture is then
a slice that leaves the vector lanes alone, and a row of patches is one matrix,
`[C, W·B]`, small enough for the cache. A convolution is patches times a matrix, a
product per row of the picture: under `vmap` over devices a native convolution becomes
a grouped one, which is several times slower on CPU. `docs/performance.md` has the
figures.
"""

import functools
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

    Its weight is `[k·k·in, features]`, rows by place in the window, then channel.

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
        """Maps `[H, in, W, B]` to `[H', features, W', B]`."""
        pad = (self.padding, self.padding)
        x = jnp.pad(x, (pad, (0, 0), pad, (0, 0)))
        patches = jnp.concatenate(_shifts(x, self.window, 1), axis=1)
        height, fan_in, width, batch = patches.shape
        init = torch_uniform(fan_in)
        weight = self.param("weight", init, (fan_in, self.features))
        bias = self.param("bias", init, (self.features,))
        rows = patches.reshape(height, fan_in, width * batch)
        weight = jnp.broadcast_to(weight[None], (height, *weight.shape))
        y = jax.lax.dot_general(weight, rows, (((1,), (1,)), ((0,), (0,))))
        y = y.reshape(height, self.features, width, batch)
        return y + bias.reshape(1, -1, 1, 1)


class Flatten(nn.Module):
    """From images to vectors: all pixels of a sample times a matrix, plus a bias.

    Its weight is `[H·in·W, features]`.

    Attributes:
      features: outputs.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[H, in, W, B]` to `[B, features]`."""
        columns = x.reshape(-1, x.shape[-1])
        init = torch_uniform(len(columns))
        weight = self.param("weight", init, (len(columns), self.features))
        bias = self.param("bias", init, (self.features,))
        # The columns second: XLA's CPU products are a quarter slower the other way.
        product = jax.lax.dot_general(weight, columns, (((0,), (0,)), ((), ())))
        return product.T + bias[None]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Largest of each window: `[H, C, W, B]` to `[H', C, W', B]`, without padding.

    The gradient goes to the first of equal pixels, as in PyTorch. Left to JAX, a
    maximum of shifted views compares all again on the way back: 5 times the work.
    """
    return _pool(x, window, stride)[0]


@max_pool.defjvp
def _max_pool_jvp(window, stride, primals, tangents):
    (x,), (dx,) = primals, tangents
    largest, place = _pool(x, window, stride)
    tangent = jnp.zeros_like(largest)
    for index, shifted in enumerate(_shifts(dx, window, stride)):
        tangent = tangent + jnp.where(place == index, shifted, 0)
    return largest, tangent


def _pool(x, window, stride):
    """The largest of each window, and which of the k² places it has."""
    largest, *others = _shifts(x, window, stride)
    place = jnp.zeros(largest.shape, jnp.uint8)
    for index, shifted in enumerate(others, start=1):
        # Nothing is larger than NaN, which must show.
        larger = (shifted > largest) | jnp.isnan(shifted)
        largest = jnp.where(larger, shifted, largest)
        place = jnp.where(larger, jnp.uint8(index), place)
    return largest, place


def _shifts(x, window, stride):
    """The k² views of `x` that together hold every window, `[H', C, W', B]` each."""
    height = (x.shape[0] - window) // stride + 1
    width = (x.shape[2] - window) // stride + 1
    return [
        x[i : i + stride * (height - 1) + 1 : stride][
            :, :, j : j + stride * (width - 1) + 1 : stride
        ]
        for i, j in itertools.product(range(window), repeat=2)
    ]
