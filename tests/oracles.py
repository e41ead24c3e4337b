"""Independent answers: SPEC's closed forms, and Algorithm 1 as plain NumPy loops.

Nothing here imports the package.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Quadratics:
    """f_ij(θ) = ½ θᵀHθ - hᵀθ on every device; teams in team-major order."""

    hessian: np.ndarray  # [D, d, d]
    linear: np.ndarray  # [D, d]
    team: np.ndarray  # [D]
    p: np.ndarray  # [D], sums to one in each team
    q: np.ndarray  # [M], sums to one

    @property
    def num_teams(self):
        return len(self.q)

    def members(self, i):
        return np.flatnonzero(self.team == i)


def random_quadratics(seed, team_sizes, dim, low=0.2, high=3.0, weighted=False):
    rng = np.random.default_rng(seed)
    count = sum(team_sizes)
    hessian = np.empty((count, dim, dim))
    for d in range(count):
        basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
        hessian[d] = basis * rng.uniform(low, high, dim) @ basis.T
    centre = rng.normal(size=(count, dim)) + 1
    team = np.repeat(np.arange(len(team_sizes)), team_sizes)
    p = rng.uniform(0.5, 2, count) if weighted else np.ones(count)
    for i in range(len(team_sizes)):
        p[team == i] /= p[team == i].sum()
    q = rng.uniform(0.5, 2, len(team_sizes)) if weighted else np.ones(len(team_sizes))
    return Quadratics(
        hessian, np.einsum("dij,dj->di", hessian, centre), team, p, q / q.sum()
    )


def optimum(f, lam, gamma):
    """(x*, w* [M, d], θ* [D, d]): SPEC A.5."""
    eye = np.eye(f.linear.shape[1])
    s = np.linalg.inv(f.hessian + lam * eye)
    a, d = [], []
    for i in range(f.num_teams):
        rows = f.members(i)
        a.append(sum(f.p[j] * lam * s[j] @ f.hessian[j] for j in rows))
        d.append(sum(f.p[j] * lam * s[j] @ f.linear[j] for j in rows))
    solve = [gamma * np.linalg.inv(a_i + gamma * eye) for a_i in a]
    b = sum(q * k @ a_i for q, k, a_i in zip(f.q, solve, a, strict=True))
    e = sum(q * k @ d_i for q, k, d_i in zip(f.q, solve, d, strict=True))
    x = np.linalg.solve(b, e)
    w = np.stack(
        [
            np.linalg.solve(a_i + gamma * eye, d_i + gamma * x)
            for a_i, d_i in zip(a, d, strict=True)
        ]
    )
    theta = np.stack(
        [s[j] @ (f.linear[j] + lam * w[f.team[j]]) for j in range(len(f.team))]
    )
    return x, w, theta


def round_map(f, alpha, lam, a, b, g, team_steps, device_steps):
    """(𝒜, v) with x' = 𝒜x + v: one full-batch global round. SPEC A.5."""
    dim = f.linear.shape[1]
    eye = np.eye(dim)
    matrix, vector = (1 - g) * eye, np.zeros(dim)
    for i in range(f.num_teams):
        p_i, u_i = np.zeros((dim, dim)), np.zeros(dim)
        for j in f.members(i):
            stiff = f.hessian[j] + lam * eye
            left = np.linalg.matrix_power(eye - alpha * stiff, device_steps)
            s = np.linalg.inv(stiff)
            p_i += f.p[j] * (left + lam * (eye - left) @ s)
            u_i += f.p[j] * (eye - left) @ s @ f.linear[j]
        n_i = (1 - a - b) * eye + a * p_i
        powers = sum(np.linalg.matrix_power(n_i, k) for k in range(team_steps))
        matrix += g * f.q[i] * (np.linalg.matrix_power(n_i, team_steps) + b * powers)
        vector += g * f.q[i] * a * powers @ u_i
    return matrix, vector


def permfl_loop(
    gradient,
    start,
    team,
    *,
    alpha,
    lam,
    a,
    b,
    g,
    rounds,
    team_steps,
    device_steps,
    p=None,
    q=None,
    acting_teams=None,
    acting_devices=None,
    aggregate="participants",
):
    """Algorithm 1, loop for loop, on flat parameter vectors.

    gradient: (device, step number of that device, θ) -> ∇f. start: x⁰ [P].
    team: [D] team of each device. acting_teams: t -> list of teams, default all.
    acting_devices: (t, k, i) -> list of devices of team i, default all.
    p, q: weights, default uniform, renormalised over whoever acts.
    Gives (x, w [M, P], θ [D, P], steps taken [D]) after `rounds`.
    """
    num_teams, num_devices = team.max() + 1, len(team)
    p = np.ones(num_devices) if p is None else p
    q = np.ones(num_teams) if q is None else q
    x = start.copy()
    w = np.tile(start, (num_teams, 1))
    theta = np.tile(start, (num_devices, 1))
    steps = np.zeros(num_devices, int)
    seen = set()
    for t in range(rounds):
        teams = list(range(num_teams)) if acting_teams is None else acting_teams(t)
        for i in teams:
            w[i] = x
            for k in range(team_steps):
                devices = (
                    list(np.flatnonzero(team == i))
                    if acting_devices is None
                    else acting_devices(t, k, i)
                )
                for j in devices:
                    theta[j] = w[i]
                    for _ in range(device_steps):
                        pull = lam * (theta[j] - w[i])
                        theta[j] = theta[j] - alpha * (
                            gradient(j, steps[j], theta[j]) + pull
                        )
                        steps[j] += 1
                total = sum(p[j] for j in devices)
                mean = sum(p[j] * theta[j] for j in devices) / total
                w[i] = (1 - a - b) * w[i] + b * x + a * mean
        seen |= set(teams)
        counted = {
            "participants": teams,
            "stale": range(num_teams),
            "stale_seen": sorted(seen),
        }[aggregate]
        mean = sum(q[i] * w[i] for i in counted) / sum(q[i] for i in counted)
        x = (1 - g) * x + g * mean
    return x, w, theta, steps


def mclr_gradient(weight, bias, x, y):
    """Gradient of the mean negative log-likelihood; weight [C, d], bias [C]."""
    logits = x @ weight.T + bias
    logits -= logits.max(axis=1, keepdims=True)
    prob = np.exp(logits)
    prob /= prob.sum(axis=1, keepdims=True)
    prob[np.arange(len(y)), y] -= 1
    prob /= len(y)
    return prob.T @ x, prob.sum(axis=0)


def dnn_gradient(params, x, y):
    """One hidden ReLU layer; params (w1 [h, d], b1, w2 [C, h], b2)."""
    w1, b1, w2, b2 = params
    hidden = x @ w1.T + b1
    active = np.maximum(hidden, 0)
    logits = active @ w2.T + b2
    logits -= logits.max(axis=1, keepdims=True)
    prob = np.exp(logits)
    prob /= prob.sum(axis=1, keepdims=True)
    prob[np.arange(len(y)), y] -= 1
    prob /= len(y)
    back = (prob @ w2) * (hidden > 0)
    return back.T @ x, back.sum(axis=0), prob.T @ active, prob.sum(axis=0)
