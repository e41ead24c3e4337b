"""Every model, by name. One file and one line here add another."""

import inspect
from collections.abc import Callable

import flax.linen as nn

from permfl_jax.errors import InputError
from permfl_jax.models.cnn import cnn
from permfl_jax.models.dnn import dnn
from permfl_jax.models.gru import gru
from permfl_jax.models.mclr import mclr
from permfl_jax.models.spec import ModelSpec

MODELS: dict[str, Callable[[ModelSpec], nn.Module]] = {
    "cnn": cnn,
    "dnn": dnn,
    "gru": gru,
    "mclr": mclr,
}


def build(name: str, spec: ModelSpec) -> nn.Module:
    """The flax module called `name` for a task.

    Raises:
      InputError: no such model, or it does not fit the task.
    """
    if name not in MODELS:
        raise InputError(f"--model={name} is unknown; choose from {', '.join(MODELS)}.")
    return MODELS[name](spec)


def is_random(module: nn.Module) -> bool:
    """The module behaves differently while training (it takes `train`)."""
    return "train" in inspect.signature(type(module).__call__).parameters


__all__ = ["MODELS", "ModelSpec", "build", "is_random"]
