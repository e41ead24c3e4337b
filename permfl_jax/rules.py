"""What a device does in one step: a rule of a method, for ONE device.

A rule is `(Step, θ) -> (θ, loss)`; θ is a model, or any pytree that a method carries
from step to step. Methods bring rules of their own; the two here serve several.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import hparams, tree
from permfl_jax.types import Params


class Step(NamedTuple):
    """What a rule sees of one step.

    Attributes:
      gradient: `(params, which=0) -> (loss [], gradient)`, the mean over the step's
        mini-batch number `which`.
      anchor: what stays fixed during the steps, such as w; or `None`.
      rates: numbers, leaves `[]`.
      key: for draws of the step.
    """

    gradient: Callable[..., tuple[jax.Array, Params]]
    anchor: Params | None
    rates: Any
    key: jax.Array


Rule = Callable[[Step, Any], tuple[Any, jax.Array]]


class Rates(NamedTuple):
    """The numbers of `proximal`.

    Attributes:
      lr: α, `[]` or `[A]`.
      prox: λ, likewise; of no effect without an anchor.
    """

    lr: jax.Array
    prox: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSize:
    """The hyper-parameters of methods whose only number is that of plain SGD.

    Attributes:
      device_lr: α; the default is PerMFL's.
    """

    device_lr: float = 0.01

    def __post_init__(self):
        hparams.require("device_lr", self.device_lr, above=0)

    def traced(self) -> Rates:
        """The numbers that `Algorithm.round` takes."""
        return Rates(jnp.asarray(self.device_lr, float), jnp.asarray(0.0, float))


def proximal(step: Step, theta: Params) -> tuple[Params, jax.Array]:
    """θ <- θ - α(∇f(θ) + λ(θ - w)); without an anchor w, plain SGD.

    PerMFL, arXiv:2407.14251, Algorithm 1, innermost loop.

    Examples:
      On f(θ) = θ²/2, from θ = 1 with w = 0: 1 - 0.5 (1 + 0.25 · 1).

      >>> def gradient(theta):
      ...     return theta**2 / 2, theta
      >>> rates = Rates(jnp.float32(0.5), jnp.float32(0.25))
      >>> step = Step(gradient, jnp.float32(0), rates, jax.random.key(0))
      >>> [float(value) for value in proximal(step, jnp.float32(1))]
      [0.375, 0.5]
    """
    loss, grads = step.gradient(theta)
    if step.anchor is not None:
        grads = pulled(grads, theta, step.anchor, step.rates.prox)
    return tree.step(theta, grads, step.rates.lr), loss


def pulled(grads: Params, theta: Params, anchor: Params, prox: jax.Array) -> Params:
    """∇f + λ(θ - w), in the dtype of each leaf."""
    return jax.tree.map(
        lambda g, p, w: g + prox.astype(p.dtype) * (p - w), grads, theta, anchor
    )
