"""Trained models at work: predictions, a new device, a team nobody has seen, export.

What a new device or team does is what those of the run did: the steps are
`local.train`, the round is the method's own, in a federation of the newcomers alone.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from permfl_jax import keys, local, tree
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Batch, Federation, LossFn, Params, State

# `(params, x [B, ...]) -> logits [B, C]`
Apply = Callable[[Params, jax.Array], jax.Array]
# `(loss_fn, schedule, sampler) -> Algorithm`, as `algorithms.Method` has it
Factory = Callable[[LossFn, Schedule, Sampler], Algorithm]

_PLATFORMS = ("cpu", "cuda", "tpu")


class NewTeam(NamedTuple):
    """The models of a team that was not in the run.

    Attributes:
      team: w, leaves `[...]`.
      device: θ, leaves `[N, ...]`, in the order of its devices; `None` if the method
        does not keep them.
    """

    team: Params
    device: Params | None


def predict(
    apply: Apply, params: Params, x: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Logits of one model for any number of samples, a batch at a time.

    Args:
      apply: the model; the same object does not compile again.
      params: its numbers.
      x: `[n, ...]`.
      batch_size: samples of a call; the last ones are filled up with zeros.

    Returns:
      `[n, C]`.

    Examples:
      >>> def double(params, x):
      ...     return params * x
      >>> predict(double, jnp.float32(2), np.ones((3, 1), np.float32)).tolist()
      [[2.0], [2.0], [2.0]]
    """
    parts = []
    for first in range(0, max(len(x), 1), batch_size):
        batch = x[first : first + batch_size]
        padding = np.zeros((batch_size - len(batch), *x.shape[1:]), x.dtype)
        logits = _apply(apply, params, np.concatenate([batch, padding]))
        parts.append(np.asarray(logits)[: len(batch)])
    return np.concatenate(parts)


_apply = jax.jit(lambda apply, params, x: apply(params, x), static_argnums=0)


def personalise(
    loss_fn: LossFn,
    start: Params,
    samples: Batch,
    *,
    steps: int,
    lr: float,
    prox: float = 0.0,
    anchor: Params | None = None,
    batch_size: int | None = None,
    batching: str = "shuffle",
    key: jax.Array,
    number: int = 0,
) -> Params:
    """A new device: θ <- θ - α(∇f(θ) + λ(θ - w)), so often, from θ = `start`.

    Args:
      loss_fn: `(params, batch[, key]) -> losses [B]`.
      start: leaves `[...]`; in PerMFL the model w of the device's team.
      samples: the device's, leaves `[n, ...]`.
      steps: L.
      lr: α.
      prox: λ.
      anchor: what θ is pulled to; by default `start`.
      batch_size: B, or `None` for all samples in every step.
      batching: see `Schedule`.
      key: of the run. The mini-batches are those that `PM_adapted` is made with.
      number: of the device; its mini-batches hang on it.

    Returns:
      θ, leaves `[...]`.

    Raises:
      InputError: there is no sample, or a number is out of range.

    Examples:
      One step on f(θ) = (θ - 3)²/2 from w = 1, where the pull is 0: 1 + 0.5 · 2.

      >>> def loss(theta, batch):
      ...     return (theta - batch['c']) ** 2 / 2
      >>> device = {'c': np.float32([3])}
      >>> key = jax.random.key(0)
      >>> float(
      ...     personalise(loss, jnp.float32(1), device, steps=1, lr=0.5, key=key)
      ... )
      2.0
    """
    schedule = Schedule(device_steps=steps, batch_size=batch_size, batching=batching)
    rates = Rates(jnp.asarray(lr, float), jnp.asarray(prox, float))
    stream = keys.batch_key(keys.personalize_key(key))
    pulled_to = start if anchor is None else anchor
    alone = newcomers([samples], [number])
    return _descend(loss_fn, schedule, stream, rates, alone, start, pulled_to)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _descend(loss_fn, schedule, stream, rates, alone, start, anchor):
    steps = Steps(loss_fn, schedule, stream, rates, alone)
    cohort = Cohort.everyone(alone)
    models = (Shared(tree.stack(model, 1)) for model in (start, anchor))
    theta, _ = local.train(steps, cohort, jnp.zeros_like(cohort.slot), *models)
    return jax.tree.map(lambda x: x[0], theta)


def personalise_by(
    algorithm: Algorithm,
    hparams: Any,
    start: Params,
    samples: Batch,
    *,
    key: jax.Array,
    number: int = 0,
) -> Params:
    """A new device, by the method's own rule, as `PM_adapted` is made.

    Args:
      algorithm: with `personalize`, from models of teams or of the server.
      hparams: its numbers, traced.
      start: the model of the device's team, or the global one; leaves `[...]`.
      samples: see `personalise`.
      key: see `personalise`.
      number: see `personalise`.

    Returns:
      θ, leaves `[...]`.

    Raises:
      InputError: there is no sample.
    """
    alone = newcomers([samples], [number])
    theta = _adapt(algorithm.personalize, key, hparams, start, alone)
    return jax.tree.map(lambda x: x[0], theta)


@functools.partial(jax.jit, static_argnums=0)
def _adapt(personalize, key, hparams, start, alone):
    state = State(
        round=jnp.int32(0),
        cursor=jnp.zeros(1, jnp.int32),
        device=None,
        team=tree.stack(start, 1),
        server=start,
    )
    return personalize(key, hparams, state, alone, Cohort.everyone(alone))


def new_team(
    factory: Factory,
    loss_fn: LossFn,
    schedule: Schedule,
    hparams: Any,
    server: Params,
    devices: Sequence[Batch],
    *,
    key: jax.Array,
    numbers: Sequence[int] | None = None,
) -> NewTeam:
    """One global round of a team of new devices; the global model stays where it is.

    In PerMFL: w = x, and K times θ_j by L steps from w for every device j, then
    w <- (1 - ηλ - ηγ)w + ηγx + ηλ mean(θ). No other team and no server step is needed,
    since teams meet only in x, which does not move within a round.

    Args:
      factory: of a method with team models.
      loss_fn: see `personalise`.
      schedule: K, L, batches, weights.
      hparams: the method's numbers, traced.
      server: x, leaves `[...]`.
      devices: samples of each, leaves `[n, ...]`.
      key: of the run; the mini-batches are the first ones of devices so numbered.
      numbers: of the devices; by default 0, 1, 2, ...

    Raises:
      InputError: the method has no team models, or a device has no sample.
    """
    federation = newcomers(devices, range(len(devices)) if numbers is None else numbers)
    algorithm = factory(loss_fn, schedule, Sampler((len(devices),)))
    state = _one_round(algorithm, len(devices), key, hparams, server, federation)
    if state.team is None:
        raise InputError("This method has no team models, so no new team either.")
    return NewTeam(jax.tree.map(lambda x: x[0], state.team), state.device)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _one_round(algorithm, size, key, hparams, server, federation):
    state = algorithm.init(server, size, 1)
    return algorithm.round(key, hparams, state, federation)[0]


def newcomers(devices: Sequence[Batch], numbers: Sequence[int]) -> Federation:
    """Devices as a team of their own.

    Args:
      devices: samples of each.
      numbers: of each; random draws hang on it.

    Raises:
      InputError: see `from_arrays`.
    """
    together = from_arrays(devices, [0] * len(devices))
    identity = jnp.asarray(np.asarray(numbers), jnp.uint32)
    return dataclasses.replace(together, identity=identity)


def require_export() -> None:
    """Raises `InputError` unless `serialise` has what it needs."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError(
            "--export needs the package flatbuffers, which is not installed: "
            "pip install 'permfl-jax[export]'."
        )


def serialise(apply: Apply, params: Params, x: jax.ShapeDtypeStruct) -> bytes:
    """A model as one function of any number of samples, by `jax.export`.

    It runs on CPU, GPU and TPU without this package; `jax.export.deserialize` reads it
    for as long as JAX promises, which is months: keep the parameters too.

    Args:
      apply: the model.
      params: its numbers, which become constants.
      x: shape and dtype of ONE sample.

    Raises:
      InputError: the package flatbuffers is missing.
    """
    require_export()
    (size,) = export.symbolic_shape("batch")
    batch = jax.ShapeDtypeStruct((size, *x.shape), x.dtype)
    function = jax.jit(lambda x: apply(params, x))
    return bytes(export.export(function, platforms=_PLATFORMS)(batch).serialize())


def named(params: Params) -> dict[str, Any]:
    """The arrays of a model, or of a state, by the names they have in a checkpoint.

    Examples:
      >>> named({'linear': {'bias': jnp.zeros(2)}})['linear/bias'].tolist()
      [0.0, 0.0]
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves
    }
