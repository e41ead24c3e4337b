"""What gradient descent on nested Moreau envelopes can and cannot do.

For devices whose losses have curvature between μ and L, adding a squared pull λ and
minimising acts on curvature like a resistor in series:

    μ~ = (1/μ + 1/λ)^-1      μ_F = (1/μ + 1/λ + 1/γ)^-1      (and the same for L)

Each level's gradient descent then contracts by max |1 - step·curvature| over the ends
of its interval. These are derivations of this project (they agree with the closed forms
in the tests), not the theorems of arXiv:2407.14251, whose constants differ.
"""

import math
from typing import NamedTuple


class Curvature(NamedTuple):
    """The interval that holds the curvature of every device's loss.

    Attributes:
      low: μ, at least 0.
      high: L.
    """

    low: float
    high: float


class Settings(NamedTuple):
    """Every number of PerMFL, by the names of the hyper-parameters and flags.

    Attributes:
      device_lr: α.
      team_lr: η.
      server_lr: β.
      device_prox: λ.
      team_prox: γ.
      team_steps: K.
      device_steps: L.
    """

    device_lr: float
    team_lr: float
    server_lr: float
    device_prox: float
    team_prox: float
    team_steps: int
    device_steps: int


def series(curvature: float, *pulls: float) -> float:
    """`(1/curvature + Σ 1/pull)^-1`, curvature of the envelope; 0 if any is 0.

    Examples:
      >>> series(1.0, 0.5, 1.0)
      0.25
    """
    terms = (curvature, *pulls)
    return 0.0 if min(terms) <= 0 else 1 / sum(1 / term for term in terms)


def contraction(step: float, low: float, high: float) -> float:
    """Worst factor by which gradient descent shrinks the error in one step.

    Args:
      step: step size.
      low: smallest curvature.
      high: largest curvature.

    Returns:
      ρ = max(|1 - step·low|, |1 - step·high|); below 1 if and only if it converges.

    Examples:
      >>> contraction(0.5, 1.0, 2.0), contraction(1.5, 1.0, 2.0)
      (0.5, 2.0)
    """
    return max(abs(1 - step * low), abs(1 - step * high))


class Contractions(NamedTuple):
    """Factors per device step, team round and global round (exact inner solves).

    Attributes:
      device: ρ_θ.
      team: ρ_w.
      server: ρ_x.
    """

    device: float
    team: float
    server: float


def contractions(
    curvature: Curvature,
    *,
    device_lr: float,
    team_lr: float,
    server_lr: float,
    device_prox: float,
    team_prox: float,
) -> Contractions:
    """ρ_θ, ρ_w and ρ_x for step sizes α, η, β and pulls λ, γ."""
    low, high = curvature
    return Contractions(
        device=contraction(device_lr, low + device_prox, high + device_prox),
        team=contraction(
            team_lr,
            series(low, device_prox) + team_prox,
            series(high, device_prox) + team_prox,
        ),
        server=contraction(
            server_lr,
            series(low, device_prox, team_prox),
            series(high, device_prox, team_prox),
        ),
    )


class Progress(NamedTuple):
    """How far each tier moves, as a share of the way to its target.

    Attributes:
      device: a_L, of the way from w to the device's own optimum, in L steps.
      team: b_KL, of the way from x to the mean optimum of its devices, in K rounds.
      server: βγ·b_KL, of the way to the mean over teams, in one global round.
    """

    device: float
    team: float
    server: float


def progress(
    curvature: float,
    *,
    device_lr: float,
    team_lr: float,
    server_lr: float,
    device_prox: float,
    team_prox: float,
    team_steps: int,
    device_steps: int,
) -> Progress:
    """Exact progress on a quadratic of one curvature h (all devices alike).

    A tier overshoots where its share exceeds 1, and grows without bound where the share
    that one step moves exceeds 2.

    Args:
      curvature: h.
      device_lr: α.
      team_lr: η.
      server_lr: β.
      device_prox: λ.
      team_prox: γ.
      team_steps: K.
      device_steps: L.

    Examples:
      The paper's values: the global model goes 2 % of the way in a round.

      >>> paper = dict(device_lr=0.01, team_lr=0.03, server_lr=0.6)
      >>> pulls = dict(device_prox=0.5, team_prox=1.5)
      >>> share = progress(1.0, **paper, **pulls, team_steps=10, device_steps=20)
      >>> round(share.server, 3)
      0.019
    """
    device = device_share(curvature, device_lr, device_prox, device_steps)
    team = team_share(device_prox * device, team_lr, team_prox, team_steps)
    return Progress(device, team, server_lr * team_prox * team)


def device_share(curvature: float, lr: float, pull: float, steps: int) -> float:
    """a_L = (1 - (1 - α(h+λ))^L) h/(h+λ), for a stable α.

    Args:
      curvature: h.
      lr: α.
      pull: λ of the device steps.
      steps: L.
    """
    stiffness = curvature + pull
    if stiffness <= 0:
        return 0.0
    return (1 - (1 - lr * stiffness) ** steps) * curvature / stiffness


def team_share(lifted: float, lr: float, prox: float, steps: int) -> float:
    """b_KL = (1 - (1 - η(γ+λa_L))^K) λa_L/(γ+λa_L), for a stable η.

    Args:
      lifted: λ·a_L, the pull that the devices exert through their own steps.
      lr: η.
      prox: γ.
      steps: K.
    """
    pulls = prox + lifted
    if pulls == 0:
        return 0.0
    return (1 - (1 - lr * pulls) ** steps) * lifted / pulls


def steps_to(shrink: float, factor: float) -> int | None:
    """Steps of contraction `factor` until an error is `shrink` of what it was.

    Returns:
      The number of steps, or `None` when it never gets there.

    Examples:
      >>> steps_to(0.01, 0.5), steps_to(0.01, 1.0)
      (7, None)
    """
    if factor >= 1:
        return None
    return 1 if factor <= 0 else max(1, math.ceil(math.log(shrink) / math.log(factor)))


class Pulls(NamedTuple):
    """The two pulls.

    Attributes:
      device_prox: λ.
      team_prox: γ.
    """

    device_prox: float
    team_prox: float


def best_pulls(
    curvature: float,
    *,
    noise: float,
    device_spread: float,
    team_spread: float,
    devices_per_team: float,
) -> Pulls:
    """λ* = hτ²/σ_d² and γ* = hτ²/(Nσ_t²), with which θ* is the best linear guess.

    Infinite where there is no spread to allow for.

    Args:
      curvature: h.
      noise: τ, of a device's own optimum about its true one.
      device_spread: σ_d, of devices about their team.
      team_spread: σ_t, of teams.
      devices_per_team: N.

    Examples:
      >>> spreads = dict(device_spread=1.0, team_spread=2.0, devices_per_team=10)
      >>> best_pulls(1.0, noise=1.0, **spreads)
      Pulls(device_prox=1.0, team_prox=0.025)
    """
    told = curvature * noise**2

    def pull(variance):
        return told / variance if variance > 0 else math.inf

    return Pulls(pull(device_spread**2), pull(devices_per_team * team_spread**2))
