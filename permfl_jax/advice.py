"""Warnings before training: what the theory says of the chosen hyper-parameters.

Each warning is one sentence that says what to change. β·γ > 1 alone is no fault: it is
over-relaxation, stable as long as β·L_F < 2.
"""

from typing import Any

from permfl_jax import theory
from permfl_jax.measure import Measured
from permfl_jax.schedule import Schedule

# A team that can move less than this share of the way to its devices' mean optimum,
# however many rounds it runs, is held by the server.
_TEAM_HELD = 0.05
# λ this many times below what the sample counts suggest.
_PROX_TOO_SMALL = 10


def three_tier(
    hparams: Any, schedule: Schedule, num_rounds: int, measured: Measured, l2: float
) -> list[str]:
    """Checks α, η, β, λ, γ, K and L of a device-team-server method.

    Args:
      hparams: with `device_lr`, `team_lr`, `server_lr`, `device_prox`, `team_prox`.
      schedule: K and L.
      num_rounds: T.
      measured: what was measured on the data at the initial model.
      l2: strong convexity that the loss is known to have, μ.

    Returns:
      Warnings, most serious first; empty when there is nothing to say.
    """
    gains = {
        name: getattr(hparams, name)
        for name in ("device_lr", "team_lr", "server_lr", "device_prox", "team_prox")
    }
    curvature = theory.Curvature(l2, max(measured.smoothness, l2))
    unstable = _unstable(curvature, gains)
    if unstable:
        return unstable
    return [
        *_too_few_steps(curvature, gains, schedule, num_rounds),
        *_held_by_server(curvature, gains, schedule),
        *_too_little_pull(hparams, measured),
    ]


def _unstable(curvature, gains):
    """Step sizes at or above 2 / (largest curvature of their level)."""
    alpha, eta, beta, lam, gamma = gains.values()
    levels = [
        ("device_lr", "α", alpha, curvature.high + lam, "L+λ"),
        ("team_lr", "η", eta, theory.series(curvature.high, lam) + gamma, "L~+γ"),
        ("server_lr", "β", beta, theory.series(curvature.high, lam, gamma), "L_F"),
    ]
    return [
        f"{name} ({greek} = {step:g}) will diverge where curvature is largest: the "
        f"limit is 2/({formula}) = {2 / high:.3g} at the measured smoothness "
        f"L = {curvature.high:.3g}; use --hparam={name}={1 / high:.2g} or less."
        for name, greek, step, high, formula in levels
        if high > 0 and step * high >= 2
    ]


def _too_few_steps(curvature, gains, schedule, num_rounds):
    """K, L for which inner errors do not fall below the O(1/T) of the outer loop."""
    rates = theory.contractions(curvature, **gains)
    loops = [
        ("--device_steps", "L", schedule.device_steps, rates.device, "device_prox"),
        ("--team_steps", "K", schedule.team_steps, rates.team, "team_prox"),
    ]
    warnings = []
    for flag, letter, steps, rate, prox in loops:
        need = theory.steps_to(1 / max(num_rounds, 2), rate)
        if need is not None and need > steps:
            warnings.append(
                f"{flag} ({letter} = {steps}) is small for T = {num_rounds}: it may "
                f"leave {rate**steps:.0%} of the inner error in flat directions, so "
                f"the limit is biased; {need} steps or more, or a larger {prox}, would "
                f"bring that below 1/T."
            )
    return warnings


def _held_by_server(curvature, gains, schedule):
    """γ too large relative to λ: teams, and so the global model, hardly move."""
    if min(gains["device_prox"], gains["team_prox"]) == 0 or not curvature.high:
        return []
    moved = theory.progress(
        curvature.high,
        **gains,
        team_steps=schedule.team_steps,
        device_steps=schedule.device_steps,
    )
    lifted = gains["device_prox"] * moved.device
    reach = lifted / (lifted + gains["team_prox"])
    if reach >= _TEAM_HELD:
        return []
    return [
        f"team_prox (γ = {gains['team_prox']:g}) is large beside device_prox "
        f"(λ = {gains['device_prox']:g}): a team can go only {reach:.1%} of the way "
        "from the global model to its devices' optimum, which slows the global model; "
        "raise device_prox or --device_steps, or lower team_prox."
    ]


def _too_little_pull(hparams, measured):
    """λ too small for the data a device has: personal models fit noise."""
    if not 0 < hparams.device_prox * _PROX_TOO_SMALL < measured.best_device_prox:
        return []
    return [
        f"device_prox (λ = {hparams.device_prox:g}) is small for the data a device has "
        f"(down to {measured.smallest_count} samples): the spread between devices "
        f"suggests about {measured.best_device_prox:.2g}; raise --hparam=device_prox."
    ]
