"""The exact optimum of PerMFL's problem, and the round map linearised where it ends.

    J(x, w, θ) = Σ q_i [ Σ p_ij (f_ij(θ_ij) + λ/2 |θ_ij-w_i|²) + γ/2 |w_i-x|² ]

is minimised over all tiers at once by Newton's method, whose systems conjugate
gradients solve: nothing larger than the models is stored. Uniform weights.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg, gmres

from permfl_jax import runner
from permfl_jax.errors import DivergenceError
from permfl_jax.theory import Settings
from permfl_jax.types import Params, Samples

from . import watch
from .watch import Subject

_MOST_NEWTON = 50
_SMALL = 1e-10  # of the gradient: by then Newton's method is past its last digits
_MOST_CG = 2000
_ARNOLDI = 60  # rounds that the largest factor costs


class Reference(NamedTuple):
    """The minimiser, with models as flat vectors of P numbers.

    Attributes:
      server: `[P]`, x*.
      team: `[M, P]`, w*.
      device: `[D, P]`, θ*.
      gradient: norm of the gradient of J there, each block over the root of its weight.
    """

    server: np.ndarray
    team: np.ndarray
    device: np.ndarray
    gradient: float


def losses_of(subject: Subject, like: Params):
    """`[D, P] -> [D]`: the loss of each device on all its samples.

    Args:
      subject: loss and federation.
      like: a model, for its structure.
    """
    train: Samples = subject.federation.train
    unravel = jax.flatten_util.ravel_pytree(like)[1]
    place = jnp.arange(train.max_count, dtype=jnp.int32)

    def one(theta, start, count):
        rows = start + jnp.minimum(place, count - 1)
        batch = jax.tree.map(lambda x: x[rows], train.pool)
        losses = subject.loss(unravel(theta), batch)
        return jnp.where(place < count, losses, 0).sum() / count.astype(losses.dtype)

    return lambda theta: jax.vmap(one)(theta, train.start, train.count)


def solve(subject: Subject, like: Params, chosen: Settings) -> Reference:
    """Newton's method until the gradient is below 1e-10.

    Args:
      subject: loss and federation; the loss strongly convex.
      like: a model, where to start.
      chosen: λ and γ are read.

    Raises:
      DivergenceError: it is not, after 50 steps.
    """
    losses, team = losses_of(subject, like), subject.federation.team
    sizes = jnp.bincount(team, length=int(team[-1]) + 1)
    weight = 1 / (len(sizes) * sizes[team].astype(float))  # q p
    # In these units every block of the Hessian is as curved as its own loss.
    root_device, root_team = jnp.sqrt(weight)[:, None], 1 / np.sqrt(len(sizes))

    def objective(scaled):
        server, teams, devices = scaled
        w, theta = teams / root_team, devices / root_device
        pull = ((theta - w[team]) ** 2).sum(axis=1)
        inner = weight @ (losses(theta) + chosen.device_prox / 2 * pull)
        outer = ((w - server[None]) ** 2).sum() / len(sizes)
        return inner + chosen.team_prox / 2 * outer

    start = jax.flatten_util.ravel_pytree(like)[0]
    z = (
        start,
        jnp.broadcast_to(start * root_team, (len(sizes), len(start))),
        root_device * start[None],
    )
    z, size = newton(objective, z)
    server, teams, devices = z
    found = (server, teams / root_team, devices / root_device)
    return Reference(*map(np.asarray, found), gradient=size)


def newton(objective: Callable[[Params], jax.Array], z: Params) -> tuple[Params, float]:
    """Where a strongly convex function is least, and the norm of its gradient there.

    Args:
      objective: `tree -> []`.
      z: where to start.

    Raises:
      DivergenceError: the gradient is not below 1e-10 after 50 steps.
    """
    slope = jax.grad(objective)

    @jax.jit
    def step(z):
        def curve(v):
            return jax.jvp(slope, (z,), (v,))[1]

        down = jax.tree.map(jnp.negative, slope(z))
        return cg(curve, down, tol=1e-8, maxiter=_MOST_CG)[0]

    @jax.jit
    def size(z):
        return jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(slope(z))))

    now = float(size(z))
    for _ in range(_MOST_NEWTON):
        if now < _SMALL:
            return z, now
        move, share = step(z), 1.0
        while True:
            new = jax.tree.map(lambda x, v, s=share: x + s * v, z, move)
            # The gradient shrinks along Newton's direction, if the step is short.
            if (then := float(size(new))) < now or share < 1e-4:
                break
            share /= 2
        z, now = new, then
    raise DivergenceError(f"Newton's method stopped at a gradient of {now:.1e}.")


class Linearised(NamedTuple):
    """The map of one global round near the models where it ends.

    Attributes:
      server: `[P]`, x that a round gives back.
      team: `[M, P]`, w after a round from there.
      device: `[D, P]`, θ.
      radius: the largest factor by which a small error is kept.
      apply: `[P] -> [P]`, what a round makes of a small error.
    """

    server: np.ndarray
    team: np.ndarray
    device: np.ndarray
    radius: float
    apply: Callable[[np.ndarray], jax.Array]


def linearise(
    subject: Subject, like: Params, chosen: Settings, near: np.ndarray
) -> Linearised:
    """Finds the fixed point of the compiled round, and its derivative there.

    Args:
      subject: everyone takes part, with all samples.
      like: a model, for its structure.
      chosen: all numbers.
      near: `[P]`, where to start, such as x*.

    Raises:
      DivergenceError: no fixed point was found.
    """
    ravel, unravel = jax.flatten_util.ravel_pytree(like)
    method, gains = watch.algorithm_of(subject, chosen), watch.gains(chosen)
    template = runner.start(method, like, subject.federation)

    @jax.jit
    def tiers(x):
        state = template._replace(server=unravel(x))
        return method.round(jax.random.key(0), gains, state, subject.federation)[0]

    def flat(model):
        return jax.flatten_util.ravel_pytree(model)[0]

    def once(x):
        return flat(tiers(x).server)

    @jax.jit
    def away(x):
        return once(x) - x

    @jax.jit
    def towards(x):
        def left(v):
            return v - jax.jvp(once, (x,), (v,))[1]

        return gmres(left, once(x) - x, tol=1e-6, maxiter=20, restart=20)[0]

    x = jnp.asarray(near, ravel.dtype)
    for _ in range(_MOST_NEWTON):
        if float(jnp.linalg.norm(away(x))) < 1e-13 * max(1, float(jnp.linalg.norm(x))):
            break
        x = x + towards(x)
    else:
        raise DivergenceError("no fixed point of the round was found.")
    push = jax.jit(functools.partial(_push, once, x))
    last = tiers(x)
    return Linearised(
        server=np.asarray(x),
        team=np.asarray(jax.vmap(flat)(last.team)),
        device=np.asarray(jax.vmap(flat)(last.device)),
        radius=largest_factor(push, len(x)),
        apply=push,
    )


def largest_factor(push: Callable[[np.ndarray], jax.Array], size: int) -> float:
    """Largest eigenvalue, in absolute value, of a linear map of `size` numbers.

    By Arnoldi's method from a random vector: its value converges long before its
    vector where eigenvalues crowd, as those of flat directions do.

    Args:
      push: the map, which need not be symmetric.
      size: P.
    """
    steps = min(_ARNOLDI, size)
    basis, small = np.zeros((steps + 1, size)), np.zeros((steps + 1, steps))
    first = np.random.default_rng(0).normal(size=size)
    basis[0] = first / np.linalg.norm(first)
    for n in range(steps):
        new = np.array(push(basis[n]))
        for _ in range(2):  # once leaves rounding errors that grow
            share = basis[: n + 1] @ new
            new -= share @ basis[: n + 1]
            small[: n + 1, n] += share
        small[n + 1, n] = np.linalg.norm(new)
        if small[n + 1, n] < 1e-12 * np.abs(small).max():
            steps = n + 1
            break
        basis[n + 1] = new / small[n + 1, n]
    return float(np.abs(np.linalg.eigvals(small[:steps, :steps])).max())


def _push(once, x, v):
    return jax.jvp(once, (x,), (jnp.asarray(v, x.dtype),))[1]
