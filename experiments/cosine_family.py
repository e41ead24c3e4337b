"""f(θ) = 1 - cos(θ - c): losses of curvature in [-1, 1] whose envelopes are known.

A model of d numbers is d such problems at once. PerMFL's own objective F, its gradient
and its lowest value are computed to rounding, by nested equations of one number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import federation
from permfl_jax.types import Batch, Federation

SMOOTHNESS = 1.0
_FIXED, _NEWTON = 6, 6  # steps: safe ones to come near, then quadratic ones
_GRID = 361  # starts for the lowest value, over one period


class Family(NamedTuple):
    """D devices in M teams of equal size.

    Attributes:
      centre: `[M, N, d]`, c.
    """

    centre: np.ndarray


def draw(seed: int, num_teams: int, devices: int, dim: int) -> Family:
    """Centres within a quarter turn of their team's, which is anywhere."""
    rng = np.random.default_rng(seed)
    team = rng.uniform(-np.pi, np.pi, (num_teams, 1, dim))
    return Family(team + rng.uniform(-np.pi / 2, np.pi / 2, (num_teams, devices, dim)))


def loss(theta: jax.Array, batch: Batch) -> jax.Array:
    """Σ 1 - cos(θ - c) of each sample, `[B]`."""
    return (1 - jnp.cos(theta[None] - batch["centre"])).sum(axis=1)


def federation_of(family: Family) -> Federation:
    """The federation; a device has one sample."""
    num_teams, devices, dim = family.centre.shape
    rows = family.centre.reshape(-1, 1, dim)
    team = np.repeat(np.arange(num_teams), devices).tolist()
    return federation.from_arrays([{"centre": row} for row in rows], team)


def device_models(family: Family, team: np.ndarray, device_prox: float) -> np.ndarray:
    """θ*(w) `[..., M, N, d]` for w `[..., M, d]`; λ above 1."""
    w = team[..., None, :]
    theta = w + 0 * family.centre
    for step in range(_FIXED + _NEWTON):
        slope = np.sin(theta - family.centre) + device_prox * (theta - w)
        exact = np.cos(theta - family.centre) + device_prox
        theta = theta - slope / (exact if step >= _FIXED else device_prox + 1)
    return theta


def team_models(
    family: Family, server: np.ndarray, device_prox: float, team_prox: float
) -> np.ndarray:
    """w*(x) `[..., M, d]` for x `[..., d]`; 1/λ + 1/γ below 1."""
    x = server[..., None, :]
    w = x + 0 * family.centre[:, 0]
    for step in range(_FIXED + _NEWTON):
        theta = device_models(family, w, device_prox)
        pull = device_prox * (w - theta.mean(axis=-2))
        h = np.cos(theta - family.centre)
        curvature = (device_prox * h / (device_prox + h)).mean(axis=-2)
        steep = curvature if step >= _FIXED else device_prox
        w = w - (pull + team_prox * (w - x)) / (steep + team_prox)
    return w


def gradient(
    family: Family, server: np.ndarray, device_prox: float, team_prox: float
) -> np.ndarray:
    """∇F(x) = γ (x - mean w*(x)), `[..., d]`."""
    team = team_models(family, server, device_prox, team_prox)
    return team_prox * (server - team.mean(axis=-2))


def value(
    family: Family, server: np.ndarray, device_prox: float, team_prox: float
) -> np.ndarray:
    """F(x) of each coordinate, `[..., d]`; F is their sum."""
    team = team_models(family, server, device_prox, team_prox)
    theta = device_models(family, team, device_prox)
    inner = 1 - np.cos(theta - family.centre)
    inner = inner + device_prox / 2 * (theta - team[..., None, :]) ** 2
    outer = team_prox / 2 * (team - server[..., None, :]) ** 2
    return (inner.mean(axis=-2) + outer).mean(axis=-2)


def lowest(family: Family, device_prox: float, team_prox: float) -> float:
    """inf F: the lowest of a grid over the period, then descent from there."""
    grid = np.linspace(-np.pi, np.pi, _GRID)[:, None] + 0 * family.centre[0, 0]
    found = value(family, grid, device_prox, team_prox)
    x = grid[found.argmin(axis=0), np.arange(grid.shape[1])]
    for _ in range(60):  # F is smoother than 1, so a step of 1 never overshoots
        x = x - gradient(family, x, device_prox, team_prox)
    return float(value(family, x, device_prox, team_prox).sum())
