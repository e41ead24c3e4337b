"""What PerMFL does to quadratics, in closed form: optima, the map of a round, its rate.

Matrices are added up team by team: at 10^5 devices memory is that of the federation and
of one team. All is NumPy in float64, for any K, L and weights p of the devices of a
team and q of the teams. `Settings` are step sizes, pulls, K and L.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from permfl_jax.errors import InputError
from permfl_jax.quadratics import Quadratics
from permfl_jax.theory import Settings


class Tiers(NamedTuple):
    """A model for everyone.

    Attributes:
      server: `[d]`, x.
      team: `[M, d]`, w.
      device: `[D, d]`, θ.
    """

    server: np.ndarray
    team: np.ndarray
    device: np.ndarray


class Affine(NamedTuple):
    """`x -> matrix @ x + offset`.

    Attributes:
      matrix: `[d, d]`, symmetric here.
      offset: `[d]`.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Applies it."""
        return self.matrix @ x + self.offset

    @property
    def radius(self) -> float:
        """Spectral radius: the factor by which errors shrink in the end."""
        return float(np.abs(np.linalg.eigvalsh(self.matrix)).max())

    @property
    def fixed_point(self) -> np.ndarray:
        """`[d]`, the x that it maps to itself."""
        return np.linalg.solve(np.eye(len(self.offset)) - self.matrix, self.offset)


def objective(problem: Quadratics, device_prox: float, team_prox: float) -> Affine:
    """∇F, so that ∇F(x) = matrix @ x + offset; its `matrix` is the Hessian of F.

    Args:
      problem: the federation.
      device_prox: λ, above 0.
      team_prox: γ, above 0.

    Raises:
      InputError: a pull that is not above 0, which leaves F flat.
    """
    for name, value in (("device_prox", device_prox), ("team_prox", team_prox)):
        if not value > 0:
            raise InputError(f"{name} must be above 0 for F to hold x, got {value}.")
    dim = problem.truth.shape[1]
    matrix, offset = np.zeros((dim, dim)), np.zeros(dim)
    teams = _envelopes(problem, device_prox)
    for q, team in zip(problem.team_weight, teams, strict=True):
        pulled = q * team_prox * (team.axes / (team.values + team_prox)) @ team.axes.T
        matrix += pulled @ team.matrix
        offset -= pulled @ team.linear
    return Affine((matrix + matrix.T) / 2, offset)


def optimum(problem: Quadratics, device_prox: float, team_prox: float) -> Tiers:
    """The minimiser of PerMFL's problem: x*, w* and θ*.

    Args:
      problem: the federation.
      device_prox: λ.
      team_prox: γ.

    Raises:
      InputError: see `objective`.
    """
    gradient = objective(problem, device_prox, team_prox)
    server = np.linalg.solve(gradient.matrix, -gradient.offset)
    teams = _envelopes(problem, device_prox)
    models = [team.pulled_to(server, team_prox) for team in teams]
    team = np.stack(models)
    return Tiers(server, team, _exact_devices(problem, team, device_prox))


def _exact_devices(problem, team, device_prox):
    h, w = problem.curvature, team[problem.team]
    own = _apply(h / (h + device_prox), problem.turn, problem.centre)
    return own + _apply(device_prox / (h + device_prox), problem.turn, w)


class _Envelope(NamedTuple):
    """A team's f_i, the mean envelope of its devices: its gradient is A w - d."""

    matrix: np.ndarray
    linear: np.ndarray
    values: np.ndarray
    axes: np.ndarray

    def pulled_to(self, server, team_prox):
        """The minimiser of f_i + γ/2 |w-x|²."""
        seen = self.axes.T @ (self.linear + team_prox * server)
        return self.axes @ (seen / (self.values + team_prox))


def _envelopes(problem, device_prox):
    """Those of all teams, one after the other."""
    lifted = device_prox * problem.curvature / (device_prox + problem.curvature)
    for i in range(len(problem.team_weight)):
        matrix, linear = _team_sum(problem, i, lifted)
        yield _Envelope(matrix, linear, *np.linalg.eigh(matrix))


def round_map(problem: Quadratics, settings: Settings) -> Affine:
    """One global round as a map of x: all devices, all their samples in each step."""
    dim = problem.truth.shape[1]
    to_teams = settings.server_lr * settings.team_prox
    matrix, offset = (1 - to_teams) * np.eye(dim), np.zeros(dim)
    whole = _team_maps(problem, settings, settings.team_steps)
    for i, q in enumerate(problem.team_weight):
        team = whole(i)
        matrix += to_teams * q * team.matrix
        offset += to_teams * q * team.offset
    return Affine((matrix + matrix.T) / 2, offset)


def after_round(problem: Quadratics, settings: Settings, server: np.ndarray) -> Tiers:
    """What the tiers hold after a round that starts at x; compare `round_map`.

    Args:
      problem: the federation.
      settings: step sizes, pulls, K and L.
      server: `[d]`, x before the round.
    """
    teams = range(len(problem.team_weight))
    before = _team_maps(problem, settings, settings.team_steps - 1)
    after = _team_maps(problem, settings, settings.team_steps)
    # Devices start from the team's model of the last exchange but the team's own step.
    start = np.stack([before(i)(server) for i in teams])[problem.team]
    left, moved = _device_shares(problem, settings)
    device = _apply(left, problem.turn, start)
    device += _apply(moved, problem.turn, problem.centre)
    team = np.stack([after(i)(server) for i in teams])
    return Tiers(round_map(problem, settings)(server), team, device)


class GradientSizes(NamedTuple):
    """Means of the norms of the envelopes' gradients, for `bounds.floor`.

    Attributes:
      team: mean over the teams of |∇F_i(x)|, G_F.
      device: mean over the teams of the largest mean |∇f~_ij(w)| in a team round, G.
    """

    team: float
    device: float


def gradient_sizes(
    problem: Quadratics, settings: Settings, server: np.ndarray
) -> GradientSizes:
    """G_F and G in the round that starts at x."""
    pull, prox = settings.device_prox, settings.team_prox
    lifted = pull * problem.curvature / (pull + problem.curvature)
    at_team = [
        prox * np.linalg.norm(server - team.pulled_to(server, prox))
        for team in _envelopes(problem, pull)
    ]
    largest = np.zeros(len(at_team))
    for k in range(settings.team_steps):
        maps = _team_maps(problem, settings, k)
        start = np.stack([maps(i)(server) for i in range(len(at_team))])
        slope = _apply(lifted, problem.turn, start[problem.team] - problem.centre)
        sizes = problem.device_weight * np.linalg.norm(slope, axis=1)
        largest = np.maximum(largest, np.bincount(problem.team, sizes))
    return GradientSizes(
        float(problem.team_weight @ at_team), float(problem.team_weight @ largest)
    )


def _device_shares(problem, settings):
    """θ after L steps from w, as shares of w and of the device's own optimum."""
    h, pull = problem.curvature, settings.device_prox
    kept = (1 - settings.device_lr * (h + pull)) ** settings.device_steps
    moved = (1 - kept) * h / (h + pull)
    return 1 - moved, moved


def _team_maps(problem, settings, steps) -> Callable[[int], Affine]:
    """Number of a team to its model after so many team rounds, as a map of x."""
    left, moved = _device_shares(problem, settings)
    to_devices = settings.team_lr * settings.device_prox
    to_server = settings.team_lr * settings.team_prox

    def of_team(i):
        mean, _ = _team_sum(problem, i, left)
        _, pull = _team_sum(problem, i, moved)
        # One team round is w -> N w + b x + a u; N is symmetric.
        values, axes = np.linalg.eigh(to_devices * mean)
        values = values + 1 - to_devices - to_server
        powers = values**steps
        sums = np.sum([values**k for k in range(steps)], axis=0) * np.ones_like(values)
        return Affine(
            (axes * (powers + to_server * sums)) @ axes.T,
            to_devices * (axes * sums) @ axes.T @ pull,
        )

    return of_team


def _team_sum(problem, i, values):
    """Σ_j p Q diag(values) Q over a team, `[d, d]`, and the same of its centres."""
    first, last = np.searchsorted(problem.team, [i, i + 1])
    rows = slice(first, last)
    p, f, u = problem.device_weight[rows], values[rows], problem.turn[rows]
    cross = (p[:, None] * u).T @ (f * u)
    inside = p * (u * f * u).sum(axis=1)
    matrix = np.diag(p @ f) - 2 * (cross + cross.T) + 4 * (u.T * inside) @ u
    return matrix, p @ _apply(f, u, problem.centre[rows])


def _apply(values, turn, rows):
    """Q diag(values) Q, row by row."""
    return _reflect(values * _reflect(rows, turn), turn)


def _reflect(rows, turn):
    return rows - 2 * (turn * rows).sum(axis=1, keepdims=True) * turn
