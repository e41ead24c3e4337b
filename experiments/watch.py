"""Distances to known models, recorded in every round of many runs at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import runner, sweep
from permfl_jax.algorithms.permfl import HParams, permfl
from permfl_jax.errors import DivergenceError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.theory import Settings
from permfl_jax.types import Algorithm, Federation, LossFn, Params

TIERS = ("device", "team", "server")


class Numbers(NamedTuple):
    """What the hyper-parameters of a watched method are.

    Attributes:
      gains: those of the method.
      marks: name to the models that distances are measured to, one for each tier:
        `{tier: leaves [D, ...], [M, ...] or [...]}`.
      gradient: ∇F as `closed_forms.Affine`, or `None` where it is not known.
    """

    gains: Any
    marks: dict[str, dict[str, Params]]
    gradient: Any = None


class Subject(NamedTuple):
    """What runs: a loss on devices, with everything but the numbers.

    Attributes:
      loss: `(params, batch) -> [B]`.
      federation: the devices.
      sampler: who takes part.
      batch_size: B, or `None` for all samples.
      keep_models: whether to record x itself, too.
    """

    loss: LossFn
    federation: Federation
    sampler: Sampler
    batch_size: int | None = None
    keep_models: bool = False


def gains(settings: Settings) -> Any:
    """The numbers that PerMFL takes."""
    chosen = settings._asdict()
    del chosen["team_steps"], chosen["device_steps"]
    return HParams(**chosen).traced()


def algorithm_of(subject: Subject, settings: Settings) -> Algorithm:
    """PerMFL with the loops of the settings."""
    schedule = Schedule(
        team_steps=settings.team_steps,
        device_steps=settings.device_steps,
        batch_size=subject.batch_size,
    )
    return permfl(subject.loss, schedule, subject.sampler)


def watched(algorithm: Algorithm, keep_models: bool) -> Algorithm:
    """The same method, whose metrics also tell how far its models are from the marks.

    Metrics `TIER/to_MARK` are root mean squares over the models of a tier;
    `server/step` is |x - x'| of the round; `server/gradient` is |∇F(x)| before it.
    """

    def round_(key, numbers, state, federation):
        after, metrics = algorithm.round(key, numbers.gains, state, federation)
        for name, models in numbers.marks.items():
            for tier in TIERS:
                away = _distance(getattr(after, tier), models[tier], tier != "server")
                metrics[f"{tier}/to_{name}"] = away
        metrics["server/step"] = _distance(after.server, state.server, False)
        if numbers.gradient is not None:
            slope = numbers.gradient.matrix @ state.server + numbers.gradient.offset
            metrics["server/gradient"] = jnp.linalg.norm(slope)
        if keep_models:
            metrics["server/model"] = jax.flatten_util.ravel_pytree(after.server)[0]
        return after, metrics

    return Algorithm(algorithm.init, round_)


def _distance(models, marks, stacked):
    """Root mean square over the models of their distances, `[]`."""
    squares = jax.tree.map(lambda x, y: ((x - y) ** 2).sum(), models, marks)
    total = jnp.sum(jnp.stack(jax.tree.leaves(squares)))
    count = jax.tree.leaves(models)[0].shape[0] if stacked else 1
    return jnp.sqrt(total / count)


def stack(trees: Sequence[Any]) -> Any:
    """Leaves `[n, ...]` of n pytrees."""
    return jax.tree.map(lambda *rows: jnp.stack([jnp.asarray(r) for r in rows]), *trees)


def coupled(models: np.ndarray) -> np.ndarray:
    """Distances of two runs that share all draws, `[R, T]`.

    What the draws add is the same in both and cancels: the distance falls to 0 at the
    rate of the method, where the distance to any fixed model stops at the noise.

    Args:
      models: `[2R, T, P]`; runs r and R + r share their draws.
    """
    first, second = np.split(models, 2)
    return np.linalg.norm(first - second, axis=-1)


def follow(
    subject: Subject,
    settings: Settings,
    numbers: Sequence[Numbers],
    starts: Params,
    seeds: Sequence[int],
    num_rounds: int,
    per_call: int = 100,
) -> tuple[dict[str, np.ndarray], Any]:
    """Runs all seeds and numbers as one program.

    Args:
      subject: what runs.
      settings: K and L; the rest is in `numbers`.
      numbers: H of them.
      starts: leaves `[R, ...]`, x^0 of each seed.
      seeds: R, of batches and participation.
      num_rounds: T; rounded up to whole calls.
      per_call: rounds of a compiled call.

    Returns:
      Metrics, leaves `[R, H, T, ...]`, and the state after them.

    Raises:
      DivergenceError: a number of some member is no longer finite.
    """
    method = watched(algorithm_of(subject, settings), subject.keep_models)
    state = sweep.start_many(method, starts, len(numbers), subject.federation)
    key = jnp.stack([jax.random.key(seed) for seed in seeds])
    stacked, parts = stack(numbers), []
    per_call = min(per_call, num_rounds)
    for _ in range(-(-num_rounds // per_call)):
        state, metrics = sweep.advance_many(
            method, per_call, key, stacked, state, subject.federation
        )
        parts.append(jax.tree.map(np.asarray, metrics))
    found = {
        name: np.concatenate([part[name] for part in parts], axis=2)
        for name in parts[0]
        if not name.startswith(runner.HEALTH)
    }
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise DivergenceError(f"{name} is no longer finite; lower the step sizes.")
    return found, state
