"""A small recurrent network for the next character."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from permfl_jax.errors import InputError
from permfl_jax.models.layers import Linear
from permfl_jax.models.spec import ModelSpec

# A sequence of codes has the shape of a vector of features: only the name can tell.
DATASETS = ("shakespeare",)


class GRU(nn.Module):
    """Embedding, one gated recurrent layer, linear output from its last state.

    Attributes:
      num_classes: C; also the number of different codes, as a class is a next code.
      embedding: width of the vector that stands for a code.
      width: of the recurrent state.
    """

    num_classes: int
    embedding: int = 8
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps codes `[B, T]`, whole numbers of any type, to logits `[B, C]`."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        shape = (self.num_classes, self.embedding)
        table = self.param("embedding", init, shape, jnp.float32)
        # Not a look-up: its gradient adds up in no fixed order on a GPU.
        x = jax.nn.one_hot(x.astype(jnp.int32), self.num_classes, dtype=table.dtype)
        x = x @ table
        start = jnp.zeros((x.shape[0], self.width), table.dtype)
        cell = nn.GRUCell(self.width, name="cell")
        last, _ = nn.RNN(cell, return_carry=True)(x, initial_carry=start)
        return Linear(self.num_classes, name="output")(last)


def gru(spec: ModelSpec) -> nn.Module:
    """18,825 parameters for 65 characters.

    Raises:
      InputError: the samples are not sequences of codes.
    """
    if spec.dataset not in DATASETS or len(spec.sample_shape) != 1:
        raise InputError(
            f"--model=gru reads sequences of codes, of --dataset={', '.join(DATASETS)},"
            f" and got samples of shape {spec.sample_shape} of --dataset="
            f"{spec.dataset}: choose --model=mclr or dnn."
        )
    return GRU(spec.num_classes)
