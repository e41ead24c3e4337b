"""Exact risks in the model of random effects: what pulls, teams and counts are worth.

Team centres m_i ~ (m, σ_t²), a device's true optimum c_ij ~ (m_i, σ_d²), the optimum of
its own data ĉ_ij ~ (c_ij, τ_ij²); every loss is ½ h |θ - ĉ_ij|². PerMFL's optimum is
linear in the ĉ_ij, so the mean square errors of θ, w and x as estimates of the c_ij, in
each coordinate, need no draw. Matrices are D x D: for up to some thousand devices.

θ is the best linear unbiased estimate where devices and teams count by their samples,
λ_ij = h τ_ij²/σ_d² and γ_i = h s²/(n_i σ_t²), with τ_ij² = s²/n_ij and n_i = Σ_j n_ij.
With equal weights a device of little data, whose λ_ij is large, counts for more than
others in its team's mean, as its envelope is stiffer; weights by samples mend that.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from permfl_jax.errors import InputError


class World(NamedTuple):
    """What is true of D devices.

    Attributes:
      group: `[D]`, the true team of each, from 0.
      team_spread: σ_t.
      device_spread: σ_d.
      noise: `[D]`, τ, by how much each device's own optimum misses its truth.
    """

    group: np.ndarray
    team_spread: float
    device_spread: float
    noise: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """`[D, D]`, of the true optima about m."""
        alike = self.group[:, None] == self.group[None]
        return self.team_spread**2 * alike + self.device_spread**2 * np.eye(len(alike))


class Weights(NamedTuple):
    """What θ, w and x make of the ĉ; every row sums to one.

    Attributes:
      device: `[D, D]`, of θ.
      team: `[M, D]`, of w.
      server: `[D]`, of x.
    """

    device: np.ndarray
    team: np.ndarray
    server: np.ndarray


class Risk(NamedTuple):
    """Mean over devices of the squared error, in each coordinate.

    Attributes:
      device: of θ (PM), for the device's own truth.
      team: of w (TM), for the truths of its members.
      server: of x (GM), for the truths of all members.
      unseen: of x, for a device of a team that took no part.
    """

    device: float
    team: float
    server: float
    unseen: float


def world(
    team_sizes: Sequence[int],
    team_spread: float,
    device_spread: float,
    noise: float | np.ndarray,
) -> World:
    """Devices team by team.

    Args:
      team_sizes: `[M]`, of the true teams.
      team_spread: σ_t.
      device_spread: σ_d.
      noise: τ, or `[D]`.
    """
    group = np.repeat(np.arange(len(team_sizes)), team_sizes)
    return World(
        group, team_spread, device_spread, np.broadcast_to(noise, len(group)).copy()
    )


def optimum(
    team: np.ndarray,
    device_prox: float | np.ndarray,
    team_prox: float | np.ndarray,
    device_weight: np.ndarray | None = None,
    curvature: float = 1.0,
) -> Weights:
    """PerMFL's optimum, K and L without end, as weights of the devices' own optima.

    Args:
      team: `[D]`, the teams that train, from 0, none empty.
      device_prox: λ, or `[D]`; above 0.
      team_prox: γ, or `[M]`; above 0.
      device_weight: `[D]`, what each counts in its team and its team among teams, such
        as its samples; `None` for all devices and all teams alike.
      curvature: h.

    Raises:
      InputError: a pull that is not above 0.
    """
    pull = np.broadcast_to(np.asarray(device_prox, float), team.shape)
    member = np.arange(team.max() + 1)[:, None] == team[None]  # [M, D]
    to_server = np.broadcast_to(np.asarray(team_prox, float), len(member))
    if not (pull.min() > 0 and to_server.min() > 0):
        raise InputError(
            f"the optimum needs pulls above 0, got device_prox={pull.min():g} and "
            f"team_prox={to_server.min():g}."
        )
    counted = np.ones(len(team)) if device_weight is None else device_weight
    in_team = member @ counted
    among = np.ones(len(in_team)) if device_weight is None else in_team
    through = (
        pull * curvature / (pull + curvature)
    )  # of the envelope, h and λ in series
    part = member * counted * through / in_team[:, None]
    stiff = part.sum(axis=1)
    mean = part / stiff[:, None]
    heard = among * stiff * to_server / (stiff + to_server)
    server = heard @ mean / heard.sum()
    teams = (part + to_server[:, None] * server) / (stiff + to_server)[:, None]
    own = (curvature / (curvature + pull))[:, None]
    return Weights(own * np.eye(len(team)) + (1 - own) * teams[team], teams, server)


def risk(where: World, team: np.ndarray, weights: Weights) -> Risk:
    """The risks of linear estimates.

    Args:
      where: what is true.
      team: `[D]`, the teams that trained.
      weights: of the devices' own optima.
    """
    everybody = np.broadcast_to(weights.server, weights.device.shape)
    seen = where.covariance + np.diag(where.noise**2)
    own = where.team_spread**2 + where.device_spread**2
    return Risk(
        device=float(each(where, weights.device).mean()),
        team=float(each(where, weights.team[team]).mean()),
        server=float(each(where, everybody).mean()),
        unseen=float(weights.server @ seen @ weights.server) + own,
    )


def each(where: World, rows: np.ndarray) -> np.ndarray:
    """`[D]`, the squared error of every device's estimate.

    Args:
      where: what is true.
      rows: `[D, D]`, weights of the devices' own optima, each row's sum one.
    """
    away = rows - np.eye(len(rows))
    spread = np.einsum("ij,jk,ik->i", away, where.covariance, away)
    return spread + (rows**2) @ where.noise**2


def tuned(
    score: Callable[[float, float], float], start: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float]:
    """The pulls (λ, γ) that make a score least, within [1e-6, 1e6].

    Args:
      score: `(λ, γ) -> risk`, such as that of θ.
      start: where the search begins.
    """
    found = optimize.minimize(
        lambda logs: score(*np.exp(logs)),
        np.log(start),
        method="Nelder-Mead",
        bounds=[(np.log(1e-6), np.log(1e6))] * 2,
        options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 2000},
    )
    device_prox, team_prox = np.exp(found.x)
    return float(device_prox), float(team_prox)


def best(where: World) -> np.ndarray:
    """`[D, D]`, the best linear unbiased estimate of every truth, teams known.

    Generalised least squares for m, then what is left by regression: the answer that
    tuned pulls are measured by.
    """
    seen = where.covariance + np.diag(where.noise**2)
    ones = np.ones(len(seen))
    inverse = np.linalg.solve(seen, ones)
    mean = np.broadcast_to(inverse / (ones @ inverse), seen.shape)
    return mean + where.covariance @ np.linalg.solve(seen, np.eye(len(seen)) - mean)
