"""The methods beside PerMFL as plain NumPy loops and affine maps, from SPEC C and A.5.

Nothing here imports the package. In every loop `gradient` is `(device, number of the
mini-batch, θ) -> ∇f` on flat vectors, `weight` `[D]` the p_n up to a factor, `acting`
`t -> devices of round t`; the last result is how many mini-batches each device saw.
"""

import numpy as np


def fedavg_loop(gradient, start, *, alpha, rounds, steps, weight, acting, mu=0.0):
    """SPEC C.1; with μ > 0 FedProx, C.10. Gives (x, mini-batches)."""
    x, seen = start, np.zeros(len(weight), int)
    for t in range(rounds):
        total, mass = 0.0, 0.0
        for n in acting(t):
            y = x
            for _ in range(steps):
                y = y - alpha * (gradient(n, seen[n], y) + mu * (y - x))
                seen[n] += 1
            total, mass = total + weight[n] * y, mass + weight[n]
        x = total / mass
    return x, seen


def pooled_loop(gradient, start, *, alpha, rounds, steps, weight, acting):
    """Gradient descent on the weighted mean loss. Gives (x, mini-batches)."""
    x, seen = start, np.zeros(len(weight), int)
    for t in range(rounds):
        devices = acting(t)
        mass = sum(weight[n] for n in devices)
        for _ in range(steps):
            slope = sum(weight[n] * gradient(n, seen[n], x) for n in devices) / mass
            seen[devices] += 1
            x = x - alpha * slope
    return x, seen


def perfedavg_loop(gradient, start, *, alpha, beta, rounds, steps, weight, acting):
    """SPEC C.7: β trains, α looks ahead. Gives (x, mini-batches)."""
    x, seen = start, np.zeros(len(weight), int)
    for t in range(rounds):
        total, mass = 0.0, 0.0
        for n in acting(t):
            y = x
            for _ in range(steps):
                u = y - alpha * gradient(n, seen[n], y)
                y = y - beta * gradient(n, seen[n] + 1, u)
                seen[n] += 2
            total, mass = total + weight[n] * y, mass + weight[n]
        x = total / mass
    return x, seen


def pfedme_loop(
    gradient,
    start,
    *,
    delta,
    lam,
    eta,
    beta,
    rounds,
    local_rounds,
    inner_steps,
    weight,
    acting,
):
    """SPEC C.3, θ from w_n in every local round. Gives (w, θ [D], mini-batches)."""
    w, seen = start, np.zeros(len(weight), int)
    theta = np.tile(start, (len(weight), 1))
    for t in range(rounds):
        total, mass = 0.0, 0.0
        for n in acting(t):
            local = w
            for _ in range(local_rounds):
                theta[n] = local
                for _ in range(inner_steps):
                    slope = gradient(n, seen[n], theta[n])
                    theta[n] = theta[n] - delta * (slope + lam * (theta[n] - local))
                local = local - eta * lam * (local - theta[n])
                seen[n] += 1
            total, mass = total + weight[n] * local, mass + weight[n]
        w = (1 - beta) * w + beta * total / mass
    return w, theta, seen


def ditto_loop(
    gradient,
    start,
    *,
    alpha,
    personal,
    lam,
    rounds,
    steps,
    weight,
    acting,
):
    """SPEC C.4, personal steps on FedAvg's mini-batches. Gives (w, v [D], ...)."""
    w, seen = start, np.zeros(len(weight), int)
    v = np.tile(start, (len(weight), 1))
    for t in range(rounds):
        total, mass = 0.0, 0.0
        for n in acting(t):
            y = w
            for _ in range(steps):
                v[n] = v[n] - personal * (gradient(n, seen[n], v[n]) + lam * (v[n] - w))
                y = y - alpha * gradient(n, seen[n], y)
                seen[n] += 1
            total, mass = total + weight[n] * y, mass + weight[n]
        w = total / mass
    return w, v, seen


def scaffold_loop(gradient, start, *, alpha, server, rounds, steps, weight, acting):
    """SPEC C.10, p_n for 1/N. Gives (x, c_n [D], c, mini-batches)."""
    x, seen = start, np.zeros(len(weight), int)
    own, common = np.zeros((len(weight), len(start))), np.zeros(len(start))
    for t in range(rounds):
        move, turn, mass = 0.0, 0.0, 0.0
        for n in acting(t):
            y = x
            for _ in range(steps):
                y = y - alpha * (gradient(n, seen[n], y) - own[n] + common)
                seen[n] += 1
            new = own[n] - common + (x - y) / (alpha * steps)
            move, mass = move + weight[n] * (y - x), mass + weight[n]
            turn = turn + weight[n] * (new - own[n])
            own[n] = new
        x = x + server * move / mass
        common = common + turn / sum(weight)
    return x, own, common, seen


def hsgd_loop(
    gradient,
    start,
    team,
    *,
    alpha,
    rounds,
    team_steps,
    device_steps,
    weight,
    team_weight,
    acting_teams,
    acting_devices,
):
    """SPEC C.2. Gives (x, w [M], mini-batches)."""
    x, seen = start, np.zeros(len(team), int)
    w = np.tile(start, (len(team_weight), 1))
    for t in range(rounds):
        teams = acting_teams(t)
        for i in teams:
            w[i] = x
            for k in range(team_steps):
                total, mass = 0.0, 0.0
                for j in acting_devices(t, k, i):
                    y = w[i]
                    for _ in range(device_steps):
                        y = y - alpha * gradient(j, seen[j], y)
                        seen[j] += 1
                    total, mass = total + weight[j] * y, mass + weight[j]
                w[i] = total / mass
        mass = sum(team_weight[i] for i in teams)
        x = sum(team_weight[i] * w[i] for i in teams) / mass
    return x, w, seen


def fedavg_map(f, weight, alpha, steps, mu=0.0):
    """(𝒜, v) of a full-batch round: R_n = (I - α(H_n + μ))^steps, S_n = (H_n + μ)⁻¹.

    y_n = R_n x + (I - R_n) S_n (h_n + μx).
    """
    eye = np.eye(f.linear.shape[1])
    matrix, vector = 0 * eye, 0 * f.linear[0]
    for h, linear, p in zip(f.hessian, f.linear, weight / sum(weight), strict=True):
        left = np.linalg.matrix_power(eye - alpha * (h + mu * eye), steps)
        solved = (eye - left) @ np.linalg.inv(h + mu * eye)
        matrix += p * (left + mu * solved)
        vector += p * solved @ linear
    return matrix, vector


def perfedavg_map(f, weight, alpha, beta, steps):
    """(𝒜, v): y - c_n <- (I - βH(I - αH))(y - c_n), as ∇f(y - α∇f(y)) is

    H(I - αH)(y - c_n).
    """
    eye = np.eye(f.linear.shape[1])
    matrix, vector = 0 * eye, 0 * f.linear[0]
    for h, linear, p in zip(f.hessian, f.linear, weight / sum(weight), strict=True):
        left = np.linalg.matrix_power(eye - beta * h @ (eye - alpha * h), steps)
        matrix += p * left
        vector += p * (eye - left) @ np.linalg.solve(h, linear)
    return matrix, vector


def fixed_point(matrix, vector):
    return np.linalg.solve(np.eye(len(vector)) - matrix, vector)


def pooled_optimum(f, weight):
    """argmin Σ p_n f_n."""
    hessian = np.einsum("d,dij->ij", weight, f.hessian)
    return np.linalg.solve(hessian, weight @ f.linear)


def local_optima(f):
    """`[D, d]`: argmin f_n."""
    return np.linalg.solve(f.hessian, f.linear[..., None])[..., 0]


def descent(f, start, alpha, steps):
    """`[D, d]`: c_n + (I - αH_n)^steps (x - c_n), gradient descent from x."""
    left = np.eye(f.linear.shape[1]) - alpha * f.hessian
    centre = local_optima(f)
    away = np.linalg.matrix_power(left, steps) @ (start - centre)[..., None]
    return centre + away[..., 0]
