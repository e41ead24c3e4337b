"""Warnings before training: what the theory says of the chosen hyper-parameters.

Each warning is one sentence that says what to change. β·γ > 1 alone is no fault: it is
over-relaxation, stable as long as β·L_F < 2.
"""

from typing import Any

from permfl_jax import bounds, stability, theory
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
    numbers = {
        name: getattr(hparams, name)
        for name in ("device_lr", "team_lr", "server_lr", "device_prox", "team_prox")
    }
    pull = getattr(hparams, "device_pull", None)
    pull = numbers["device_prox"] if pull is None else pull
    curvature = theory.Curvature(l2, max(measured.smoothness, l2))
    settings = theory.Settings(
        **numbers, team_steps=schedule.team_steps, device_steps=schedule.device_steps
    )
    long = stability.unstable_level(curvature, settings, pull)
    if long is not None:
        return [_too_long(long, curvature.high)]
    return [
        *_still(settings),
        *_too_few_steps(curvature, settings, pull, num_rounds),
        *_held_by_server(curvature.high, settings, pull),
        *_too_little_pull(pull, measured),
    ]


def _too_long(level, high):
    name, letter, step, seen, where, grows = level
    what = "will diverge" if grows else "overshoots, and would diverge in longer loops,"
    at = "is largest" if where == high else f"is {where:.3g}"
    return (
        f"{name} ({letter} = {step:g}) {what} where curvature {at}: its "
        f"limit is 2/{seen:.3g} = {2 / seen:.3g} at the measured smoothness "
        f"L = {high:.3g}; use --hparam={name}={1 / seen:.2g} or less."
    )


def _still(settings):
    """A link that is cut: nothing that devices learn arrives at the server."""
    links = {"device_prox": "λ", "team_prox": "γ", "server_lr": "β", "team_lr": "η"}
    cut = [name for name in links if not getattr(settings, name)]
    if not cut:
        return []
    return [
        "The global model will stay as it began, because "
        f"{' and '.join(f'{name} ({links[name]})' for name in cut)} is 0; "
        f"raise --hparam={cut[0]}."
    ]


def _too_few_steps(curvature, settings, pull, num_rounds):
    """K, L for which inner errors do not fall below the O(1/T) of the outer loop."""
    # A pull of the devices alone is a re-tuning of the other numbers.
    scale = settings.device_prox / pull if pull and settings.device_prox else 1
    tuned = settings._replace(
        team_lr=settings.team_lr * scale,
        server_lr=settings.server_lr * scale,
        device_prox=pull,
        team_prox=settings.team_prox / scale,
    )
    rates = bounds.contractions(curvature, tuned)
    enough = bounds.loops_below(1 / max(num_rounds, 2), rates)
    loops = [
        ("device_steps", "L", rates.device, "device_prox"),
        ("team_steps", "K", rates.team, "team_prox"),
    ]
    warnings = []
    for name, letter, rate, prox in loops:
        steps, need = getattr(settings, name), getattr(enough, name)
        if need is not None and need > steps:
            warnings.append(
                f"--{name} ({letter} = {steps}) is small for T = {num_rounds}: it may "
                f"leave {rate**steps:.0%} of the inner error in flat directions, so "
                f"the limit is biased; {need} steps or more, or a larger {prox}, would "
                f"bring that below 1/T."
            )
    return warnings


def _held_by_server(high, settings, pull):
    """γ too large relative to λ: teams, and so the global model, hardly move."""
    share = theory.device_share(high, settings.device_lr, pull, settings.device_steps)
    lifted = settings.device_prox * share
    if not lifted or not settings.team_prox:
        return []
    reach = lifted / (lifted + settings.team_prox)
    if reach >= _TEAM_HELD:
        return []
    return [
        f"team_prox (γ = {settings.team_prox:g}) is large beside device_prox "
        f"(λ = {settings.device_prox:g}): a team can go only {reach:.1%} of the way "
        "from the global model to its devices' optimum, which slows the global model; "
        "raise device_prox or --device_steps, or lower team_prox."
    ]


def _too_little_pull(pull, measured):
    """λ too small for the data a device has: personal models fit noise."""
    if not 0 < pull * _PROX_TOO_SMALL < measured.best_device_prox:
        return []
    return [
        f"device_prox (λ = {pull:g}) is small for the data a device has "
        f"(down to {measured.smallest_count} samples): the spread between devices "
        f"suggests about {measured.best_device_prox:.2g}; raise --hparam=device_prox."
    ]
