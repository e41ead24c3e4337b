"""Safe step sizes for curvature 0.2 to 3, as PerMFL and as the oracle take them."""

from permfl_jax import bounds
from permfl_jax.theory import Curvature, Settings

LOW, HIGH, LAM, GAMMA = 0.2, 3.0, 0.8, 1.5
PULLS = {"device_prox": LAM, "team_prox": GAMMA}
ENDS = Curvature(LOW, HIGH)


def settings(k=5, ell=8, **changes):
    sizes = bounds.safe(ENDS, **PULLS)._asdict()
    return Settings(**(sizes | PULLS | changes), team_steps=k, device_steps=ell)


def mixing(numbers):
    """What `oracles.round_map` takes."""
    return {
        "alpha": numbers.device_lr,
        "lam": numbers.device_prox,
        "a": numbers.team_lr * numbers.device_prox,
        "b": numbers.team_lr * numbers.team_prox,
        "g": numbers.server_lr * numbers.team_prox,
        "team_steps": numbers.team_steps,
        "device_steps": numbers.device_steps,
    }
