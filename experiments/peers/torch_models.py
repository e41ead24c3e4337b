"""Our networks and samples in PyTorch's layout, computing the same functions.

A convolution of ours is a matrix [k·k·in, out] whose rows run over (row, column, input
channel), and the first fully connected layer after the convolutions is a matrix
[H·in·W, out] whose rows run over (row, channel, column); PyTorch orders kernels as
(output, input, row, column) and flattened images as (channel, row, column). Matrices
between vectors are (out, in) in both. Samples end in their channels; PyTorch's begin
with them.
"""

import math
from typing import Any

import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch import nn

from permfl_jax.models.cnn import PLANS, Plan

from . import Device, Setting


class Flatten(nn.Flatten):
    """Flattening that remembers what it flattens.

    Attributes:
      image: (channels, height, width).
    """

    def __init__(self, image: tuple[int, int, int]):
        super().__init__()
        self.image = image


def network(setting: Setting, sample_shape: tuple[int, ...], params: Any) -> nn.Module:
    """The module of `setting`, holding our parameters.

    Args:
      setting: names the model.
      sample_shape: shape of one `x` as we store it, channels last.
      params: our flax parameters.
    """
    if setting.model == "cnn":
        plan = PLANS[setting.dataset]
        layers, inputs = _convolutions(plan, sample_shape)
        layers |= _dense(inputs, plan.hidden, plan.dropout)
        width = plan.hidden[-1]
    else:
        hidden = setting.hidden if setting.model == "dnn" else ()
        width = math.prod(sample_shape)
        layers = {"flatten": nn.Flatten()} | _dense(width, hidden, 0.0)
        width = hidden[-1] if hidden else width
    last = "linear" if setting.model == "mclr" else "output"
    layers[last] = nn.Linear(width, setting.num_classes)
    module = nn.Sequential()
    for name, layer in layers.items():
        module.add_module(name, layer)
    _load(module, params)
    return module


def leaves(module: nn.Module) -> list[np.ndarray]:
    """The parameters in our layout, in the order of `jax.tree.leaves` of ours."""
    image, arrays = _flattened(module), {}
    for name, tensor in module.state_dict().items():
        array = tensor.detach().numpy().copy()
        outputs = len(array)
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0).reshape(-1, outputs)
        elif name == "hidden_0.weight" and image:
            array = array.reshape(outputs, *image).transpose(2, 1, 3, 0)
            array = array.reshape(-1, outputs)
        arrays[name] = array
    return [arrays[name] for name in sorted(arrays)]


def tensors(setting: Setting, samples: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised float32 samples, channels first for the CNN, and int64 labels."""
    x = samples["x"].astype(np.float32) * setting.scale + setting.offset
    if setting.model == "cnn":
        x = np.moveaxis(x.reshape(*x.shape[:3], math.prod(x.shape[3:])), -1, 1)
    x = torch.from_numpy(np.ascontiguousarray(x))
    return x, torch.from_numpy(samples["y"].astype(np.int64))


def _convolutions(
    plan: Plan, sample_shape: tuple[int, ...]
) -> tuple[dict[str, nn.Module], int]:
    """Convolutions, ReLU and pools up to the flattening, and how many numbers leave."""
    height, width, *channels = sample_shape
    inputs = math.prod(channels)
    layers: dict[str, nn.Module] = {}
    for index, outputs in enumerate(plan.channels):
        layers[f"conv_{index}"] = nn.Conv2d(
            inputs, outputs, plan.window, padding=plan.padding
        )
        layers[f"conv_relu_{index}"] = nn.ReLU()
        layers[f"pool_{index}"] = nn.MaxPool2d(2, plan.stride)
        grown = 2 * plan.padding - plan.window + 1
        height, width = (
            (side + grown - 2) // plan.stride + 1 for side in (height, width)
        )
        inputs = outputs
    flatten = Flatten((inputs, height, width))
    return layers | {"flatten": flatten}, height * width * inputs


def _dense(inputs: int, hidden: tuple[int, ...], dropout: float) -> dict[str, Any]:
    layers: dict[str, nn.Module] = {}
    for index, width in enumerate(hidden):
        layers[f"hidden_{index}"] = nn.Linear(inputs, width)
        layers[f"relu_{index}"] = nn.ReLU()
        if dropout:
            layers[f"dropout_{index}"] = nn.Dropout(dropout)
        inputs = width
    return layers


def _load(module: nn.Module, params: Any) -> None:
    """Copies our parameters into `module`."""
    image, state = _flattened(module), {}
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, leaf in flatten_dict(params, sep=".").items():
        array, outputs = np.array(leaf, np.float32), shapes[name][0]
        if len(shapes[name]) == 4:
            _, inputs, rows, columns = shapes[name]
            array = array.reshape(rows, columns, inputs, outputs)
            array = array.transpose(3, 2, 0, 1)
        elif name == "hidden_0.weight" and image:
            channels, height, width = image
            array = array.reshape(height, channels, width, outputs)
            array = array.transpose(3, 1, 0, 2).reshape(outputs, -1)
        state[name] = torch.from_numpy(np.ascontiguousarray(array))
    module.load_state_dict(state)


def _flattened(module: nn.Module) -> tuple[int, int, int] | None:
    """(channels, height, width) where images are flattened, `None` without them."""
    found = [m.image for m in module.modules() if isinstance(m, Flatten)]
    return found[0] if found else None
