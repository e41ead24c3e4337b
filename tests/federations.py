"""Small federations that the tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from permfl_jax import runner
from permfl_jax.algorithms.permfl import Gains, permfl
from permfl_jax.federation import from_arrays
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule


def quadratic_loss(theta, batch):
    """½ θᵀHθ - hᵀθ for each sample {'hessian': [B, d, d], 'linear': [B, d]}."""
    curved = jnp.einsum("bij,j->bi", batch["hessian"], theta)
    return 0.5 * curved @ theta - batch["linear"] @ theta


def quadratic_federation(f, counts=None):
    """Device d has one sample, or `counts[d]` whose mean loss is f_d."""
    rng = np.random.default_rng(0)
    devices = []
    counts = [1] * len(f.team) if counts is None else counts
    for h, v, n in zip(f.hessian, f.linear, counts, strict=True):
        noise = rng.normal(size=(n, len(v)))
        rows = {
            "hessian": np.repeat(h[None], n, axis=0),
            "linear": v + noise - noise.mean(axis=0),
        }
        devices.append(rows)
    return from_arrays(devices, [int(i) for i in f.team])


def classes_federation(seed, counts, teams, dim=5, num_classes=3, dtype=np.float64):
    """Random features and labels; device d has `counts[d]` samples."""
    rng = np.random.default_rng(seed)
    devices = [
        {
            "x": rng.normal(size=(n, dim)).astype(dtype),
            "y": rng.integers(0, num_classes, n).astype(np.int32),
        }
        for n in counts
    ]
    return from_arrays(devices, teams), devices


def mclr_params(seed, dim=5, num_classes=3, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        "weight": jnp.asarray(rng.normal(size=(num_classes, dim)).astype(dtype)),
        "bias": jnp.asarray(rng.normal(size=num_classes).astype(dtype)),
    }


def mclr_loss(params, batch):
    rows = (1, *params["bias"].shape)
    logits = batch["x"] @ params["weight"].T + params["bias"].reshape(rows)
    picked = jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - picked


def gains(alpha, lam, a, b, g):
    return Gains(*(jnp.asarray(value, jnp.float64) for value in (alpha, lam, a, b, g)))


# The same object is compiled once, whichever test asks for it.
_permfl = functools.lru_cache(permfl)


def run_permfl(
    loss, federation, params, numbers, rounds, *, sampler=None, seed=0, **schedule
):
    """The state after `rounds`."""
    schedule = {"batch_size": None} | schedule
    sampler = sampler or Sampler.of(federation)
    algorithm = _permfl(loss, Schedule(**schedule), sampler)
    start = runner.start(algorithm, params, federation)
    key = jax.random.key(seed)
    *_, (state, _) = runner.run(algorithm, key, numbers, start, federation, rounds)
    return state


def mesh_of(rows, columns):
    """A mesh of the first CPU devices."""
    chips = np.asarray(jax.devices()[: rows * columns]).reshape(rows, columns)
    return Mesh(chips, ("team", "device"), axis_types=(AxisType.Auto,) * 2)
