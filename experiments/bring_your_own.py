"""Your own data and teams, with your own flax model or a plain loss function.

python -m experiments.bring_your_own
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import evaluate, federation, runner, task
from permfl_jax.algorithms.permfl import HParams, permfl
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation

from . import program


def hospitals() -> Federation:
    """Six hospitals of different sizes in two regions, as plain arrays."""
    rng = np.random.default_rng(0)
    devices, regions = [], []
    for size, region in ((20, "north"), (35, "north"), (80, "south")) * 2:
        tilt = {"north": 1.0, "south": -1.0}[region] + 0.3 * rng.normal()
        x = rng.normal(size=(size, 4)).astype(np.float32)
        score = x[:, 0] + np.float32(tilt) * x[:, 1]
        devices.append({"x": x, "y": (score > 0).astype(np.int32), "score": score})
        regions.append(region)
    # Held-out samples are further lists of the same form; here every fourth one.
    train = [{k: v[np.arange(len(v)) % 4 > 0] for k, v in d.items()} for d in devices]
    test = [{k: v[::4] for k, v in d.items()} for d in devices]
    return federation.from_arrays(train, regions, test=test)


class Net(nn.Module):
    """Any flax module that gives logits will do."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, 4]` to `[B, 2]`."""
        return nn.Dense(2)(nn.tanh(nn.Dense(8)(x)))


def flax_model() -> dict[str, float]:
    """Trains a flax module; returns test accuracy of PM, TM and GM."""
    data = hospitals()
    classify = task.classification(Net(), np.zeros(4, np.float32))
    sampler = Sampler.of(data)
    schedule = Schedule(team_steps=5, device_steps=10, batch_size=16)
    algorithm = permfl(classify.loss, schedule, sampler)
    hparams = HParams(
        device_lr=0.1, team_lr=0.3, server_lr=1.0, device_prox=1.0, team_prox=1.0
    ).traced()
    key = jax.random.key(0)
    start = runner.start(algorithm, classify.init(key), data)
    *_, (state, _) = runner.run(algorithm, key, hparams, start, data, num_rounds=20)
    scored = evaluate.models_of(algorithm, key, hparams, state, data)
    row = evaluate.Evaluator(classify.metrics, data).rows(scored)
    return {label: row[f"{label}/accuracy"] for label in scored}


def plain_loss() -> np.ndarray:
    """Median regression, which is no flax module; returns one slope per team."""
    data = hospitals()

    def absolute_error(slope: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        """One loss per sample, `[B]`."""
        return jnp.abs(batch["score"] - slope * batch["x"][:, 1])

    algorithm = permfl(absolute_error, Schedule(batch_size=None), Sampler.of(data))
    start = runner.start(algorithm, jnp.float32(0), data)
    hparams = HParams(
        device_lr=0.1, team_lr=0.4, server_lr=2.0, device_prox=1.0, team_prox=0.5
    )
    *_, (state, _) = runner.run(
        algorithm, jax.random.key(0), hparams.traced(), start, data, num_rounds=20
    )
    return np.asarray(state.team)


def main(argv: Sequence[str]) -> None:
    """Runs both."""
    program.no_arguments(argv)
    for label, accuracy in flax_model().items():
        print(f"{label} test accuracy {accuracy:.2%}")
    north, south = plain_loss()
    print(f"slope of the median: north {north:+.3f}, south {south:+.3f}")


if __name__ == "__main__":
    program.run(main, "experiments.bring_your_own")
