"""Cheap measurements of a federation before training: curvature and spread.

A dozen gradients on a few devices, so that step sizes and pulls can be checked
against the theory before hours are spent.
"""

from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from permfl_jax import batches, keys, placement
from permfl_jax.gradient import weighted_sum
from permfl_jax.types import Federation, LossFn, Params

_DEVICES = 8
_POWER_STEPS = 12
# Samples per device: 256 for small models, fewer where parameters times samples would
# make the measurement cost more than the rounds it is meant to save.
_SAMPLES = (16, 256)
_PARAMETERS_TIMES_SAMPLES = 10**8


class Measured(NamedTuple):
    """Measured at the initial model, on a few devices.

    Attributes:
      smoothness: largest curvature seen (top eigenvalue of the Hessians), L.
      best_device_prox: the λ that suits the devices' sample counts: curvature times the
        variance that sampling leaves in a device's optimum, over the variance between
        devices of a team (λ* = hτ²/σ_d² of the random-effects model). Devices that
        differ by less than their samples' noise count as differing by as much. 0
        where nothing can be said: a single device, or one sample each.
      smallest_count: fewest training samples on a device.
    """

    smoothness: float
    best_device_prox: float
    smallest_count: int


def measure(
    loss_fn: LossFn, params: Params, federation: Federation, key: jax.Array
) -> Measured:
    """Measures up to 8 devices, on 16 to 256 samples each.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      params: the initial model.
      federation: the data, not spread over chips.
      key: for the start of the power iteration.

    Raises:
      InputError: the federation is spread over chips.
    """
    placement.check_unplaced(federation)
    team = np.asarray(federation.team)
    chosen = _choose(team)
    block = _block(params, len(chosen), federation.train.max_count)
    curvatures, gradients, noises = _probe(
        loss_fn, params, federation, key, chosen, block
    )
    smoothness = float(np.max(curvatures))
    count = np.asarray(federation.train.count)
    noise = float(np.mean(noises))
    # A device's optimum hangs on all its samples, also those not measured.
    left = float(np.mean(noises * np.minimum(1, block / count[chosen])))
    between = _spread_within(gradients, team[chosen]) - noise
    known = noise > 0 and len(team) > 1
    return Measured(
        smoothness=smoothness,
        best_device_prox=smoothness * left / max(between, noise) if known else 0.0,
        smallest_count=int(count.min()),
    )


def _choose(team):
    """Up to 8 devices, two from each of up to 4 teams where teams have two."""
    if len(team) <= _DEVICES:
        return np.arange(len(team))
    sizes = np.bincount(team)
    teams = np.linspace(0, len(sizes) - 1, min(_DEVICES // 2, len(sizes))).astype(int)
    share = _DEVICES // len(teams)
    first = np.cumsum(sizes) - sizes
    spans = [(first[i], min(share, sizes[i]), sizes[i]) for i in teams]
    return np.concatenate(
        [np.linspace(a, a + size - 1, n).astype(int) for a, n, size in spans]
    )


def _spread_within(gradients, team):
    """Variance between devices of the same team; over all if teams have one each."""
    if len(np.unique(team)) == len(team):
        team = np.zeros_like(team)
    apart, freedom = 0.0, 0
    for i in np.unique(team):
        rows = gradients[team == i]
        apart += float(np.sum((rows - rows.mean(axis=0)) ** 2))
        freedom += len(rows) - 1
    return apart / max(freedom, 1)


def _block(params, num_devices, max_count):
    """Samples to look at on each device."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    affordable = _PARAMETERS_TIMES_SAMPLES // (size * num_devices)
    return min(max_count, int(np.clip(affordable, *_SAMPLES)))


def _probe(loss_fn, params, federation, key, chosen, block):
    """Top curvature `[n]`, gradient `[n, P]` and its sampling variance `[n]`."""
    train = federation.train
    total = weighted_sum(loss_fn)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def device(index):
        count = train.count[index]
        place = jnp.arange(block, dtype=jnp.int32)
        batch = batches.fetch(
            train.pool, train.start[index], jnp.minimum(place, count - 1)
        )
        device_key = jax.random.fold_in(keys.measure_key(key), index)

        def loss(vector, real):
            seen = jnp.maximum(real.sum(), 1).astype(vector.dtype)
            return total(unravel(vector), batch, real, device_key) / seen

        gradient = jax.grad(loss)
        real = place < count
        odd, even = real & (place % 2 == 1), real & (place % 2 == 0)
        # Two halves of the samples give two estimates; half their squared distance
        # over two is the variance of the estimate from all samples.
        halves = gradient(flat, even) - gradient(flat, odd)
        noise = jnp.where(count > 1, (halves**2).sum() / 4, 0)
        full = gradient(flat, real)

        def power(_, vector):
            vector = vector / optax.tree.norm(vector)
            return jax.jvp(lambda v: gradient(v, real), (flat,), (vector,))[1]

        start = jax.random.normal(device_key, flat.shape, flat.dtype)
        curvature = optax.tree.norm(jax.lax.fori_loop(0, _POWER_STEPS, power, start))
        return curvature, full, noise

    return jax.tree.map(np.asarray, jax.jit(lambda c: jax.lax.map(device, c))(chosen))
