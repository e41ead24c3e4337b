"""The weights of the two means, one option for every method."""

import jax
import jax.numpy as jnp

from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation


def device_weights(schedule: Schedule, federation: Federation) -> jax.Array:
    """`[D]`, p_ij up to a factor: 1, or the device's training samples."""
    ones = jnp.ones(federation.team.shape)
    if schedule.weights == "uniform":
        return ones
    return federation.train.count.astype(ones.dtype)


def team_weights(
    schedule: Schedule, federation: Federation, num_teams: int
) -> jax.Array:
    """`[M]`, q_i up to a factor: 1, or the training samples of the whole team."""
    if schedule.weights == "uniform":
        return jnp.ones(num_teams)
    counts = device_weights(schedule, federation)
    return jax.ops.segment_sum(counts, federation.team, num_teams)
