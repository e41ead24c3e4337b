"""How steep PerMFL's envelopes are where a round goes: G_F and G of its floor.

Of any strongly convex loss, by Newton's method; of quadratics `closed_forms` knows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax.closed_forms import GradientSizes
from permfl_jax.theory import Settings
from permfl_jax.types import Params

from .reference_optimum import losses_of, newton
from .watch import Subject

Losses = Callable[[jax.Array], jax.Array]


def gradient_sizes(
    subject: Subject, like: Params, chosen: Settings, server: np.ndarray
) -> GradientSizes:
    """G_F and G in the round that starts at x, as of `closed_forms.gradient_sizes`.

    Args:
      subject: loss and federation; the loss strongly convex. Everyone takes part, with
        all samples and equal weights.
      like: a model, for its structure.
      chosen: all numbers.
      server: `[P]`, x.

    Raises:
      DivergenceError: an envelope was not found.
    """
    losses, team = losses_of(subject, like), subject.federation.team
    x = jnp.asarray(server)
    sizes = jnp.bincount(team, length=int(team[-1]) + 1).astype(x.dtype)
    best = _team_optimum(losses, team, sizes, chosen, x)
    of_team = chosen.team_prox * jnp.linalg.norm(x[None] - best, axis=1)
    met = path(losses, team, sizes, chosen, x)[:-1, team]
    mine = _device_optimum(losses, chosen, met)
    of_device = chosen.device_prox * jnp.linalg.norm(met - mine, axis=2)
    means = jax.vmap(lambda row: jnp.bincount(team, row, length=len(sizes)))(of_device)
    largest = (means / sizes[None]).max(axis=0)
    return GradientSizes(float(of_team.mean()), float(largest.mean()))


def path(
    losses: Losses, team: jax.Array, sizes: jax.Array, chosen: Settings, x: jax.Array
) -> jax.Array:
    """`[K + 1, M, P]`: w from x on, by K team rounds of L steps, as a plain loop.

    Args:
      losses: `[D, P] -> [D]`.
      team: `[D]`.
      sizes: `[M]`, devices.
      chosen: all numbers.
      x: `[P]`.
    """
    slope = jax.grad(lambda theta: losses(theta).sum())
    to_devices = chosen.team_lr * chosen.device_prox
    to_server = chosen.team_lr * chosen.team_prox

    def device_step(_, state):
        theta, w = state
        pull = chosen.device_prox * (theta - w)
        return theta - chosen.device_lr * (slope(theta) + pull), w

    @jax.jit
    def team_round(w):
        start = (w[team], w[team])
        theta, _ = jax.lax.fori_loop(0, chosen.device_steps, device_step, start)
        mean = jax.ops.segment_sum(theta, team, len(sizes)) / sizes[:, None]
        return (
            (1 - to_devices - to_server) * w + to_server * x[None] + to_devices * mean
        )

    seen = [jnp.broadcast_to(x, (len(sizes), len(x)))]
    for _ in range(chosen.team_steps):
        seen.append(team_round(seen[-1]))
    return jnp.stack(seen)


def _team_optimum(losses, team, sizes, chosen, x):
    """`[M, P]`: w*(x), with every team's devices at their optima."""
    root = jnp.sqrt(1 / sizes[team])[:, None]

    def objective(z):
        w, theta = z[0], z[1] / root
        pull = chosen.device_prox / 2 * ((theta - w[team]) ** 2).sum(axis=1)
        inner = root[:, 0] ** 2 @ (losses(theta) + pull)
        return inner + chosen.team_prox / 2 * ((w - x[None]) ** 2).sum()

    start = jnp.broadcast_to(x, (len(sizes), len(x)))
    return newton(objective, (start, root * start[team]))[0][0]


def _device_optimum(losses, chosen, w):
    """`[K, D, P]`: θ*(w), for the centres of K rounds at once."""

    def objective(theta):
        pull = chosen.device_prox / 2 * ((theta - w) ** 2).sum()
        return jax.vmap(losses)(theta).sum() + pull

    return newton(objective, w)[0]
