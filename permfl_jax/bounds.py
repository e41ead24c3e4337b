"""What PerMFL's numbers promise: step sizes allowed, the floor, loops needed, O(1/T).

Everything follows from the moduli of nested envelopes (`permfl_jax.theory`) and from
gradient descent with an inexact gradient. With μ_F and L_F the curvature of F, and ρ
the contractions of the three levels,

    |x^T - x*| <= ρ_x^T |x^0 - x*| + (ρ_w^K G_F + ρ_θ^L G) / μ_F

for safe step sizes, where G_F bounds the mean |∇F_i| and G the mean |∇f~_ij| along the
way; for others β/(1 - ρ_x) stands for 1/μ_F. Without convexity, with curvature in
[-L, L] and 1/λ + 1/γ < 1/L,

    (1/T) Σ_t |∇F(x^t)|² <= 2 (F(x^0) - inf F) / (βT) + (1/T) Σ_t |e_t|²

for β at most 1/L_F (1/γ is less), e_t the error of the inner loops. These are
derivations of this project, not the theorems of arXiv:2407.14251.
"""

import math
from typing import NamedTuple

import numpy as np

from permfl_jax import theory
from permfl_jax.theory import Contractions, Curvature, Settings

Numbers = float | np.ndarray


class Moduli(NamedTuple):
    """Curvature of what each level minimises.

    Attributes:
      device: of f + λ/2 |θ-w|².
      envelope: of its minimum over θ, and so of a team's mean f_i.
      team: of f_i + γ/2 |w-x|².
      server: of its minimum over w, and so of F.
    """

    device: Curvature
    envelope: Curvature
    team: Curvature
    server: Curvature


def moduli(curvature: Curvature, *, device_prox: float, team_prox: float) -> Moduli:
    """The moduli for λ and γ.

    Examples:
      >>> moduli(Curvature(0.0, 1.0), device_prox=1.0, team_prox=0.5).server
      Curvature(low=0.0, high=0.25)
    """
    envelope = Curvature(*(theory.series(h, device_prox) for h in curvature))
    return Moduli(
        device=Curvature(*(h + device_prox for h in curvature)),
        envelope=envelope,
        team=Curvature(*(h + team_prox for h in envelope)),
        server=Curvature(
            *(theory.series(h, device_prox, team_prox) for h in curvature)
        ),
    )


def contractions(curvature: Curvature, settings: Settings) -> Contractions:
    """ρ_θ, ρ_w and ρ_x; `theory.contractions` of the same numbers."""
    numbers = settings._asdict()
    del numbers["team_steps"], numbers["device_steps"]
    return theory.contractions(curvature, **numbers)


class StepSizes(NamedTuple):
    """A step size for each level.

    Attributes:
      device_lr: of α.
      team_lr: of η.
      server_lr: of β.
    """

    device_lr: float
    team_lr: float
    server_lr: float


def limits(curvature: Curvature, *, device_prox: float, team_prox: float) -> StepSizes:
    """Each level converges, on exact inner solves, if and only if it stays below."""
    found = moduli(curvature, device_prox=device_prox, team_prox=team_prox)
    highest = (found.device.high, found.team.high, found.server.high)
    return StepSizes(*(2 / high if high > 0 else math.inf for high in highest))


def safe(curvature: Curvature, *, device_prox: float, team_prox: float) -> StepSizes:
    """1/(L+λ), 1/(λ+γ) and 1/γ: no level overshoots, whatever those below it do."""
    return StepSizes(
        1 / (curvature.high + device_prox),
        1 / (device_prox + team_prox),
        1 / team_prox,
    )


class Loops(NamedTuple):
    """How many steps the inner loops need; `None` where no number is enough.

    Attributes:
      team_steps: K.
      device_steps: L.
    """

    team_steps: int | None
    device_steps: int | None


def loops_below(shrink: float, rates: Contractions) -> Loops:
    """K and L that leave at most `shrink` of each inner error.

    Args:
      shrink: 1/T keeps pace with the O(1/T) of the non-convex bound.
      rates: from `contractions`.

    Examples:
      >>> loops_below(0.01, Contractions(device=0.5, team=0.9, server=0.9))
      Loops(team_steps=44, device_steps=7)
    """
    return Loops(
        theory.steps_to(shrink, rates.team), theory.steps_to(shrink, rates.device)
    )


def loops_at_rate(rates: Contractions, num_rounds: int) -> Loops:
    """K >= T ln ρ_x / ln ρ_w and L >= T ln ρ_x / ln ρ_θ: inner errors below ρ_x^T.

    This is the demand that K and L grow as T does.

    Args:
      rates: from `contractions`.
      num_rounds: T.
    """

    def needed(rate):
        if rate >= 1 or rates.server >= 1:
            return None
        if rate <= 0:
            return 1
        if rates.server <= 0:
            return None  # the server is there at once, which no loop can match
        return max(1, math.ceil(num_rounds * math.log(rates.server) / math.log(rate)))

    return Loops(needed(rates.team), needed(rates.device))


class Floor(NamedTuple):
    """How far from x* the inner loops may leave x, in the end.

    Attributes:
      team: ρ_w^K G_F / μ_F, what K team rounds leave; by safe steps.
      device: ρ_θ^L G / μ_F, what L device steps leave, likewise.
    """

    team: float
    device: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.team + self.device


def floor(
    curvature: Curvature,
    settings: Settings,
    *,
    team_gradient: float,
    device_gradient: float,
) -> Floor:
    """The bound on the bias; infinite where F is flat, or where β diverges.

    Args:
      curvature: of the devices' losses.
      settings: all numbers.
      team_gradient: G_F, bounds the mean over the teams of |∇F_i(x)|.
      device_gradient: G, bounds the mean over a team's devices of |∇f~_ij(w)|.
    """
    rates = contractions(curvature, settings)
    # Of an error that is made again in each step of a loop, what is left in the end.
    scale, inner = (
        step / (1 - rate) if rate < 1 else math.inf
        for step, rate in (
            (settings.server_lr, rates.server),
            (settings.team_lr, rates.team),
        )
    )
    inner = max(settings.team_prox * inner, 1.0)  # 1 by safe steps
    return Floor(
        rates.team**settings.team_steps * team_gradient * scale,
        rates.device**settings.device_steps * device_gradient * inner * scale,
    )


def floor_at_rest(
    curvature: Curvature,
    settings: Settings,
    *,
    team_gradient: float,
    device_gradient: float,
) -> Floor:
    """`floor` of an x that rounds leave where it is, for G_F and G there.

    There ∇F and the error of the loops cancel, so x is (ρ_w^K G_F + ρ_θ^L G) / μ_F from
    x* at most, by whatever β it came.
    """
    safe = settings._replace(server_lr=1 / settings.team_prox)
    return floor(
        curvature, safe, team_gradient=team_gradient, device_gradient=device_gradient
    )


class NonConvex(NamedTuple):
    """Losses of curvature in [-L, L], made tame by λ and γ.

    Attributes:
      server: curvature of F, [-ℓ_F, L_F].
      device: ρ_θ, for α at most 1/(L+λ).
      team: ρ_w, for η at most 1/(λ+γ).
    """

    server: Curvature
    device: float
    team: float


def nonconvex(smoothness: float, settings: Settings) -> NonConvex | None:
    """Moduli and contractions without convexity; `None` unless 1/λ + 1/γ < 1/L.

    Args:
      smoothness: L, above 0.
      settings: step sizes, and pulls above 0.

    Examples:
      >>> numbers = Settings(0.2, 0.1, 0.1, 2.5, 5.5, 10, 10)
      >>> [f'{end:.2f}' for end in nonconvex(1.0, numbers).server]
      ['-2.39', '0.63']
    """
    pulls = 1 / settings.device_prox + 1 / settings.team_prox
    if pulls >= 1 / smoothness:
        return None
    inner = settings.device_prox * smoothness / (settings.device_prox - smoothness)
    high = theory.series(smoothness, settings.device_prox)
    return NonConvex(
        server=Curvature(
            -1 / (1 / smoothness - pulls),
            theory.series(smoothness, settings.device_prox, settings.team_prox),
        ),
        device=theory.contraction(
            settings.device_lr,
            settings.device_prox - smoothness,
            settings.device_prox + smoothness,
        ),
        team=theory.contraction(
            settings.team_lr, settings.team_prox - inner, settings.team_prox + high
        ),
    )


def gradient_bound(
    gap: Numbers, server_lr: float, rounds: Numbers, error: Numbers
) -> Numbers:
    """2 (F(x^0) - inf F) / (βT) + mean |e|²: bounds the mean of |∇F|² over T rounds.

    Args:
      gap: F(x^0) - inf F.
      server_lr: β, at most 1/L_F.
      rounds: T.
      error: mean of |e_t|².
    """
    return 2 * gap / (server_lr * rounds) + error
