"""Federations of linear regressions, and the best estimates of their coefficients.

A device has n samples y = uᵀc_ij + e, with features u of given variances along common
axes and errors e of standard deviation s; its loss is the mean of ½(y - uᵀθ)², whose
Hessian is what its own samples happen to say. The coefficients are nested: team means
~ (m, σ_t²), devices' truths ~ (team's, σ_d²). Then PerMFL's own objective with

    λ = s²/(n σ_d²)    γ = s²/(n N σ_t²)

has its minimum at the best linear unbiased estimates, whatever the spectrum: it is the
posterior mean (SPEC A.6, for exact loops).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import pooling
from permfl_jax.types import Batch, Federation


class Regression(NamedTuple):
    """D devices of n samples each, one team after the other; d coefficients.

    Attributes:
      features: `[D, n, d]`.
      target: `[D, n]`.
      truth: `[D, d]`.
      team: `[D]`, not decreasing.
      error: s.
      team_spread: σ_t, in each coefficient.
      device_spread: σ_d.
    """

    features: np.ndarray
    target: np.ndarray
    truth: np.ndarray
    team: np.ndarray
    error: float
    team_spread: float
    device_spread: float


def draw(
    rng: np.random.Generator,
    team_sizes: Sequence[int],
    variances: np.ndarray,
    samples: int,
    *,
    team_spread: float,
    device_spread: float,
    error: float,
) -> Regression:
    """Draws a federation.

    Args:
      rng: of everything.
      team_sizes: `[M]`.
      variances: `[d]`, of the features along axes that are drawn.
      samples: n.
      team_spread: σ_t.
      device_spread: σ_d.
      error: s.
    """
    team = np.repeat(np.arange(len(team_sizes)), team_sizes)
    size, dim = len(team), len(variances)
    mean = team_spread * rng.normal(size=(len(team_sizes), dim))
    truth = mean[team] + device_spread * rng.normal(size=(size, dim))
    axes, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    features = rng.normal(size=(size, samples, dim)) * np.sqrt(variances) @ axes.T
    target = np.einsum("jnd,jd->jn", features, truth)
    target += error * rng.normal(size=target.shape)
    return Regression(features, target, truth, team, error, team_spread, device_spread)


def loss(theta: jax.Array, batch: Batch) -> jax.Array:
    """½ (y - uᵀθ)² of each sample, `[B]`."""
    return 0.5 * (batch["features"] @ theta - batch["target"]) ** 2


def federation_of(problem: Regression) -> Federation:
    """The federation whose devices have these samples, for `loss`."""
    size, samples, dim = problem.features.shape
    pool = {
        "features": problem.features.reshape(-1, dim),
        "target": problem.target.ravel(),
    }
    count = np.full(size, samples)

    def part(rows, count):
        return pooling.as_samples(jax.tree.map(jnp.asarray, rows), count)

    none = part({name: rows[:0] for name, rows in pool.items()}, 0 * count)
    return Federation(
        train=part(pool, count),
        validation=none,
        test=none,
        team=jnp.asarray(problem.team, jnp.int32),
        identity=jnp.arange(size, dtype=jnp.uint32),
    )


def best(problem: Regression) -> np.ndarray:
    """`[D, d]`: posterior means of the truths, flat in m; the spreads are known.

    Devices are eliminated first, then teams: each leaves a precision and a precision
    times a mean for the tier above.
    """
    u, dim = problem.features, problem.features.shape[-1]
    own = np.einsum("jna,jnb->jab", u, u) / problem.error**2
    pull = np.einsum("jna,jn->ja", u, problem.target) / problem.error**2
    to_team, of_device = _eliminated(own, pull, problem.device_spread)
    member = np.arange(problem.team[-1] + 1)[:, None] == problem.team[None]
    precision, pull = (np.tensordot(member, rows, 1) for rows in to_team)
    to_server, of_team = _eliminated(precision, pull, problem.team_spread)
    precision, pull = (rows.sum(axis=0) for rows in to_server)
    middle = np.broadcast_to(np.linalg.solve(precision, pull), (len(member), dim))
    return of_device(of_team(middle)[problem.team])


def _eliminated(precision, pull, spread):
    """What is left of one tier for the one above, and the tier's means given those."""
    link = np.eye(precision.shape[-1]) / spread**2
    inverse = np.linalg.inv(precision + link)

    def given(above):
        return np.einsum("jab,jb->ja", inverse, pull + above / spread**2)

    above = link - inverse / spread**4, np.einsum("jab,jb->ja", inverse, pull)
    return (above[0], above[1] / spread**2), given
