"""Federations of quadratics, with spectra and spreads as asked for.

Device d has f_d(θ) = ½ (θ-c)ᵀ H (θ-c). Its Hessian is a diagonal of curvatures, turned
by one reflection of its own,

    H = Q diag(h) Q        Q = I - 2 u uᵀ

so the Hessians of different devices do not commute, and yet a device takes 3·d numbers
instead of d². `permfl_jax.closed_forms` has their optima and rates.

The optima are nested as in a model of random effects: a team's mean m_i ~ (0, σ_t²), a
device's true optimum c_ij ~ (m_i, σ_d²), and a sample's own optimum ~ (c_ij, s²). What
n samples tell of a device is their mean, which misses the truth by τ = s/√n.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import pooling
from permfl_jax.errors import InputError
from permfl_jax.schedule import WEIGHTS
from permfl_jax.types import Batch, Federation


class Quadratics(NamedTuple):
    """D devices in M teams, one team after the other; S samples; d coordinates.

    Attributes:
      curvature: `[D, d]`, h, the eigenvalues of each Hessian.
      turn: `[D, d]`, u, unit vectors, or zeros for diagonal Hessians.
      truth: `[D, d]`, c, the optimum that infinitely many samples would give.
      samples: `[S, d]`, the optimum of each sample.
      count: `[D]`, samples of each device.
      centre: `[D, d]`, the optimum of each device's own loss: the mean of its samples.
      team: `[D]`, not decreasing.
      device_weight: `[D]`, p, sums to one in each team.
      team_weight: `[M]`, q, sums to one.
    """

    curvature: np.ndarray
    turn: np.ndarray
    truth: np.ndarray
    samples: np.ndarray
    count: np.ndarray
    centre: np.ndarray
    team: np.ndarray
    device_weight: np.ndarray
    team_weight: np.ndarray


def spectra(
    rng: np.random.Generator, num_devices: int, dim: int, low: float, high: float
) -> np.ndarray:
    """`[D, d]` curvatures, even on a log scale, both ends in every device.

    Args:
      rng: for what lies between.
      num_devices: D.
      dim: d, at least 2.
      low: μ, above 0.
      high: L.

    Raises:
      InputError: no such spectrum.
    """
    if not 0 < low <= high or dim < 2:
        raise InputError(
            f"spectra from low={low} to high={high} in {dim} coordinates: low must be "
            "above 0 and at most high, and there must be 2 coordinates or more."
        )
    logs = rng.uniform(np.log(low), np.log(high), (num_devices, dim))
    found = np.exp(np.sort(logs, axis=1))
    found[:, 0], found[:, -1] = low, high
    return found


def draw(
    rng: np.random.Generator,
    team_sizes: Sequence[int],
    curvature: np.ndarray,
    *,
    team_spread: float = 1.0,
    device_spread: float = 1.0,
    noise: float = 0.0,
    counts: int | Sequence[int] = 1,
    turned: bool = True,
    weights: str = "uniform",
) -> Quadratics:
    """Draws a federation.

    Args:
      rng: of everything.
      team_sizes: `[M]`, devices of each team.
      curvature: `[D, d]`, or `[d]` for the same in all devices; from `spectra`, say.
      team_spread: σ_t, in each coordinate.
      device_spread: σ_d.
      noise: s, of one sample.
      counts: samples of each device, n or `[D]`.
      turned: whether Hessians differ in their axes, too.
      weights: `uniform` or `samples`, as `Schedule.weights`.

    Raises:
      InputError: unknown weights.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> problem = draw(rng, (2, 3), spectra(rng, 5, 4, 0.1, 10.0))
      >>> problem.centre.shape, problem.team.tolist()
      ((5, 4), [0, 0, 1, 1, 1])
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights must be one of {', '.join(WEIGHTS)}; got {weights}.")
    team = np.repeat(np.arange(len(team_sizes)), team_sizes)
    size, dim = len(team), curvature.shape[-1]
    turn = rng.normal(size=(size, dim)) * turned
    turn /= np.maximum(np.linalg.norm(turn, axis=1, keepdims=True), 1e-300)
    mean = team_spread * rng.normal(size=(len(team_sizes), dim))
    truth = mean[team] + device_spread * rng.normal(size=(size, dim))
    count = np.broadcast_to(np.asarray(counts), size)
    samples = np.repeat(truth, count, axis=0)
    samples += noise * rng.normal(size=samples.shape)
    by_device = count if weights == "samples" else np.ones(size)
    in_team = np.bincount(team, by_device)
    by_team = in_team if weights == "samples" else np.ones(len(team_sizes))
    return Quadratics(
        curvature=np.broadcast_to(curvature, (size, dim)),
        turn=turn,
        truth=truth,
        samples=samples,
        count=count,
        centre=np.add.reduceat(samples, np.cumsum(count) - count) / count[:, None],
        team=team,
        device_weight=by_device / in_team[team],
        team_weight=by_team / by_team.sum(),
    )


def loss(theta: jax.Array, batch: Batch) -> jax.Array:
    """½ (θ-c)ᵀ Q diag(h) Q (θ-c) of each sample, `[B]`."""
    away = theta[None] - batch["centre"]
    turn = batch["turn"]
    along = (turn * away).sum(axis=1, keepdims=True)
    return 0.5 * (batch["curvature"] * (away - 2 * along * turn) ** 2).sum(axis=1)


def federation_of(problem: Quadratics) -> Federation:
    """The federation whose devices have these losses, for `loss`.

    Its numbers are 32-bit unless `jax_enable_x64` is set.
    """
    device = np.repeat(np.arange(len(problem.team)), problem.count)
    pool = {
        "curvature": problem.curvature[device],
        "turn": problem.turn[device],
        "centre": problem.samples,
    }
    nothing = {name: rows[:0] for name, rows in pool.items()}

    def part(rows, count):
        return pooling.as_samples(jax.tree.map(jnp.asarray, rows), count)

    none = part(nothing, 0 * problem.count)
    return Federation(
        train=part(pool, problem.count),
        validation=none,
        test=none,
        team=jnp.asarray(problem.team, jnp.int32),
        identity=jnp.arange(len(problem.team), dtype=jnp.uint32),
    )
