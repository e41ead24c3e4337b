"""Synthetic(α, β): every device has a linear classifier and a cloud of its own.

  u_k ~ N(0, α)            W_k ~ N(u_k, 1)  [60, 10]    b_k ~ N(u_k, 1)  [10]
  B_k ~ N(0, β)            v_k ~ N(B_k, 1)  [60]
  x ~ N(v_k, diag(j^-1.2)), j = 1..60                   y = argmax(W_k' x + b_k)

α and β are standard deviations, as in the PerMFL authors' code. α moves the scores of
all ten classes alike and so no label: the generator is kept as published, but only β
and the unit-variance draws make devices differ. Device k holds
5 (floor(lognormal(4, 2)) + 50) examples, so a few devices hold most of them.

References:
  Li et al., "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127.
  PerMFL, arXiv:2407.14251, and the generator that its authors released.
"""

import math
from typing import NamedTuple

import numpy as np

from permfl_jax import errors, hosts
from permfl_jax.data import examples

NUM_FEATURES = 60
NUM_CLASSES = 10
_FEWEST = 250  # samples of a device


class Task(NamedTuple):
    """What one device's examples are drawn from.

    Attributes:
      size: how many examples the device holds.
      weights: `[60, 10]`, W.
      bias: `[10]`, b.
      center: `[60]`, v, the mean of the features.
    """

    size: int
    weights: np.ndarray
    bias: np.ndarray
    center: np.ndarray


def draw_task(rng: np.random.Generator, alpha: float, beta: float) -> Task:
    """Draws one device's task. The size comes first: it depends on neither α nor β."""
    size = _size(rng)
    model_mean = rng.normal(0.0, alpha)
    weights = rng.normal(model_mean, 1.0, (NUM_FEATURES, NUM_CLASSES))
    bias = rng.normal(model_mean, 1.0, NUM_CLASSES)
    center_mean = rng.normal(0.0, beta)
    center = rng.normal(center_mean, 1.0, NUM_FEATURES)
    return Task(size, weights, bias, center)


def draw_examples(
    rng: np.random.Generator, task: Task
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `x` `[size, 60]` float32 and `y` `[size]` int32 of one device."""
    deviation = np.arange(1, NUM_FEATURES + 1) ** -0.6
    x = rng.normal(task.center, deviation, (task.size, NUM_FEATURES))
    # The label belongs to the rounded features, those that the model will see.
    x = x.astype(np.float32)
    y = np.argmax(x.astype(np.float64) @ task.weights + task.bias, axis=1)
    return x, y.astype(np.int32)


def synthetic(options: examples.SourceOptions) -> examples.Examples:
    """Draws `options.num_devices` devices; naturally federated, in device order.

    Every device has a random stream of its own, so one more device changes nobody
    else's data.

    Raises:
      InputError: an option is outside its range.
    """
    _check(options)
    _check_room(options)
    xs, ys = [], []
    for rng in _streams(options):
        x, y = draw_examples(rng, draw_task(rng, options.alpha, options.beta))
        xs.append(x)
        ys.append(y)
    owner = np.arange(options.num_devices, dtype=np.int32)
    return examples.Examples(
        x=np.concatenate(xs),
        y=np.concatenate(ys),
        num_classes=NUM_CLASSES,
        scale=1.0,
        offset=0.0,
        device=np.repeat(owner, [len(y) for y in ys]),
    )


def _check_room(options: examples.SourceOptions) -> None:
    """Raises `InputError` if the machine has less memory; draws sizes alone."""
    there, row = hosts.memory(), 4 * (NUM_FEATURES + 1)
    least = _FEWEST * row * options.num_devices
    if least <= there:
        least = 2 * row * sum(map(_size, _streams(options)))  # joined at the end
    if least > there:
        raise errors.InputError(
            f"--dataset=synthetic with {options.num_devices} devices takes at least "
            f"{least / 1e9:.3g} GB and this machine has {there / 1e9:.3g}: lower "
            "--num_teams or --devices_per_team."
        )


def _streams(options):
    """A random stream for each device."""
    for device in range(options.num_devices):
        yield np.random.default_rng([options.seed, device])


def _size(rng):
    return 5 * (int(rng.lognormal(4.0, 2.0)) + _FEWEST // 5)


def _check(options: examples.SourceOptions) -> None:
    """Raises `InputError` for an option outside its range."""
    deviations = {
        "--synthetic_alpha": options.alpha,
        "--synthetic_beta": options.beta,
    }
    for flag, value in deviations.items():
        if not (math.isfinite(value) and value >= 0):
            raise errors.InputError(f"{flag} must be finite and >= 0, got {value}.")
    if options.num_devices < 1:
        raise errors.InputError(
            f"--num_devices must be >= 1, got {options.num_devices}."
        )
    if options.seed < 0:
        raise errors.InputError(f"--seed must be >= 0, got {options.seed}.")
