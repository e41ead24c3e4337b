"""Rounds are lowered for chips that are not here, so that what only they refuse shows.

Lowering is where JAX picks a platform's own rules; XLA's compilers for GPU and TPU do
not run here.
"""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import thoroughly
from federations import mesh_of

from permfl_jax import models, placement, runner, task
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.federation import from_arrays
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

NAMES = sorted(ALGORITHMS)
PLATFORMS = ("cuda", "tpu")
# What StableHLO may call by name on any chip: marks of the partitioner, and the bits
# of random numbers on a GPU.
CALLS = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
CUDA_CALLS = {"cu_threefry2x32_ffi"}


@functools.cache
def federation_of(model):
    rng = np.random.default_rng(0)
    shape = (28, 28) if model == "cnn" else (60,)
    devices = [
        {
            "x": rng.integers(0, 255, (5, *shape)).astype(np.uint8),
            "y": rng.integers(0, 10, 5).astype(np.int32),
        }
        for _ in range(4)
    ]
    return from_arrays(devices, [0, 0, 1, 1]), shape


@functools.cache
def task_of(model):
    _, shape = federation_of(model)
    spec = models.ModelSpec(dataset="mnist", sample_shape=shape, num_classes=10)
    module = models.build(model, spec)
    return task.classification(module, jnp.zeros(shape, jnp.uint8), scale=1 / 255)


@functools.cache
def traced(name, model, shape, precision):
    """One call of the runner, for any platform."""
    mesh = None if shape is None else mesh_of(*shape)
    federation, _ = federation_of(model)
    # Such chips compute all their devices at once; this host would choose fewer.
    federation = placement.place(federation, mesh, device_chunk=4)
    task_ = task_of(model)
    schedule = Schedule(team_steps=2, device_steps=2, batch_size=4)
    # Some devices only: drawing them sorts, which platforms do in their own ways.
    sampler = Sampler.of(federation, None, 1)
    algorithm = ALGORITHMS[name].factory(task_.loss, schedule, sampler)
    with jax.default_matmul_precision(precision):
        start = jax.eval_shape(
            lambda: algorithm.init(task_.init(jax.random.key(0)), 4, 2)
        )
        hparams = ALGORITHMS[name].hparams().traced()
        return runner.advance.trace(
            algorithm, 2, jax.random.key(0), hparams, start, federation
        )


def lowered(name, model, shape, precision, platform):
    """StableHLO for a platform."""
    with jax.default_matmul_precision(precision):
        call = traced(name, model, shape, precision)
        return call.lower(lowering_platforms=(platform,)).as_text()


def calls_in(text):
    return set(re.findall(r"custom_call @([\w.$-]+)", text)) - CALLS


def cases():
    for name, model in [*((name, "mclr") for name in NAMES), ("permfl", "cnn")]:
        for shape, precision in itertools.product(
            (None, (2, 2)), ("float32", "bfloat16")
        ):
            for platform in PLATFORMS:
                yield name, model, platform, shape, precision


def is_chosen(case):
    """One chip in one precision, a mesh in the other; by --thorough all, as for CNN."""
    _, model, _, shape, precision = case
    return (shape is None) == (precision == "float32") or model == "cnn"


@pytest.mark.parametrize(
    ("name", "model", "platform", "shape", "precision"),
    thoroughly.cases(cases(), is_chosen),
    ids=str,
)
def test_a_round_is_lowered_for(name, model, platform, shape, precision):
    text = lowered(name, model, shape, precision, platform)
    assert "stablehlo.while" in text
    assert calls_in(text) <= (CUDA_CALLS if platform == "cuda" else set())
    wanted = "HIGHEST" if precision == "float32" else "DEFAULT"
    assert f"precision = [{wanted}, {wanted}]" in text
