"""PerMFL-auto as plain NumPy loops on quadratics with full batches.

Nothing here imports the package. Every mean of squares is written out.
"""

import numpy as np


def _part(signal, noise):
    return signal / (signal + noise) if signal + noise > 0 else 1.0


def _device_share(h, alpha, lam, steps):
    return (1 - (1 - alpha * (h + lam)) ** steps) * h / (h + lam)


def _team_share(device, a, b, steps):
    return (1 - (1 - a * device - b) ** steps) * a * device / (a * device + b)


def _bisect(reached, share, most):
    """Smallest point of [0, most] where a falling function is at most `share`."""
    low, high = 0.0, most
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > share else (low, middle)
    return (low + high) / 2


def _noise(hessian, samples, sign, at):
    """Mean of the samples' gradients with signs, less the mean sign's part."""
    each = hessian @ at - samples
    return ((sign - sign.mean())[:, None] * each).mean(axis=0)


def read(hessian, samples, draws, x, own, taken, groups, p, all_q, acting):
    """The eight numbers of a round, as `Spreads` has them.

    draws: of each device, signs and halves of its samples; own: a model of each, for
    those that have taken steps; groups: acting devices of each acting team; all_q:
    weights of all teams.
    """
    q = all_q[acting] / all_q[acting].sum()
    within = freedom = noise_sum = noise_freedom = 0.0
    at_own, heard, rough, teams = np.zeros(2), np.zeros(2), np.zeros(2), []
    for i, group in enumerate(groups):
        share = np.array([p[j] for j in group])
        share = share / share.sum()
        g = {j: hessian[j] @ x - samples[j].mean(axis=0) for j in group}
        mean = sum(s * g[j] for s, j in zip(share, group, strict=True))
        for s, j in zip(share, group, strict=True):
            n = len(samples[j])
            sign, half = draws[j]
            signed = _noise(hessian[j], samples[j], sign, x)
            noise_sum += s * n * (signed @ signed)
            noise_freedom += s * (1 - 1 / n)
            within += s * ((g[j] - mean) @ (g[j] - mean))
            freedom += s * (1 - s)
            # By half of the samples; H by the others, which count twice.
            u = _noise(hessian[j], samples[j], sign * half, own[j])
            if taken[j]:
                at_own += s * np.array([n * 2 * (u @ u), 1 - 1 / n])
            if taken[j] and u @ u > 1e-12 * (g[j] @ g[j]):
                each = hessian[j] @ own[j] - samples[j]
                v = ((sign * half)[:, None] * each).mean(axis=0)
                curved = 2 * (1 - half).mean() * (v @ hessian[j] @ v) / (1 - 1 / n)
                heard += q[i] * s * np.array([curved, v @ v])
            else:
                curved = g[j] @ hessian[j] @ g[j]
                rough += q[i] * s * np.array([curved, g[j] @ g[j]])
        teams.append((mean, share, [len(samples[j]) for j in group]))
    sample = noise_sum / noise_freedom if noise_freedom else 0.0
    known = sum((s * (1 - s) / n).sum() for _, s, n in teams) * sample
    fitted = 1 - (all_q**2).sum()
    rest = (1 - all_q[acting]) / fitted
    both = sum(
        weight * (mean @ mean / fitted - part * sample * (s**2 / n).sum())
        for weight, part, (mean, s, n) in zip(q, rest, teams, strict=True)
    )
    device = (within - known) / freedom if freedom else both / 2
    team = 0.0
    for weight, part, (mean, share, n) in zip(q, rest, teams, strict=True):
        own = (share**2 * (max(device, 0) + sample / np.array(n))).sum()
        team += weight * (mean @ mean / fitted - part * own)
    if not freedom:
        team = both / 2
    return np.array([device, team, *at_own, *heard, *rough])


def loss_at(hessian, samples, x, groups, p, q):
    """Mean over devices of a team by p, over teams by q."""
    total = 0.0
    for i, group in enumerate(groups):
        share = np.array([p[j] for j in group])
        for s, j in zip(share / share.sum(), group, strict=True):
            total += q[i] * s * (x @ hessian[j] @ x / 2 - samples[j].mean(axis=0) @ x)
    return total


def _pulls(now, count, alike, alpha, team, p, steps, team_steps, agreement):
    """λ of each device; of each team a, b and how far it goes."""
    device, between, noise, freedom, *curved = now
    sample = noise / freedom if freedom else 0.0
    curved, energy = curved[:2] if curved[1] else curved[2:]
    noise = sample * ((1 - alike) / count + alike * (1 / count).mean())
    device = max(device, 0)
    h = np.clip(curved / energy, 1e-6 / alpha, 0.5 / alpha)
    lam = np.array(
        [
            _bisect(
                lambda pull: _device_share(h, alpha, pull, steps),
                _part(device, n),
                1 / alpha - h,
            )
            for n in noise
        ]
    )
    moved = np.array([_device_share(h, alpha, pull, steps) for pull in lam])
    rows = []
    for i in range(team.max() + 1):
        own = team == i
        mean = (p[own] * moved[own]).sum() / p[own].sum()
        target = _part(max(between, 0), 1 / (1 / (device + noise[own])).sum())
        target = max(target, 0.2)
        target += max(0.95 - target, 0) * max(agreement, 0)
        inner = max(team_steps - 1, 1)
        needed = (1 - (1 - target) ** (1 / inner)) / mean
        if needed <= 1:
            ratio = _bisect(
                lambda r, mean=mean, inner=inner: _team_share(
                    mean, 1 / (1 + r), r / (1 + r), inner
                ),
                target,
                mean * (1 / target - 1),
            )
            a, b = 1 / (1 + ratio), ratio / (1 + ratio)
        else:
            a, b = min(needed, 1.9), 0.0
        rows.append((a, b, _team_share(mean, a, b, team_steps)))
    return lam, np.array(rows)


def permfl_auto_loop(
    hessian,
    samples,
    draws,
    start,
    team,
    *,
    alpha,
    alike,
    memory,
    rounds,
    team_steps,
    device_steps,
    p,
    q,
    teams,
    devices,
    keep=True,
):
    """(x, w [M, P], θ [D, P], the last λ [D]).

    hessian: [D] matrices; samples: [D] arrays [n, P], a device's gradient at θ is the
    mean of `hessian @ θ - sample`. draws: (device, steps it has taken) -> signs [n] and
    halves [n], 0 or 1.
    teams: t -> who acts; devices: (t, k, i) -> who acts of team i. keep: devices have
    models of their own, else those of their teams stand for them.
    """
    p, q = np.asarray(p, float), np.asarray(q, float) / np.sum(q)
    count = np.array([len(rows) for rows in samples], float)
    x, w = start.copy(), np.tile(start, (team.max() + 1, 1))
    theta, taken = np.tile(start, (len(team), 1)), np.zeros(len(team), int)
    kept, weight, reach, agreement = np.zeros(8), 0.0, 1.0, 1.0
    last, beyond, worst = np.zeros_like(start), 0.0, -np.inf
    for t in range(rounds):
        acting = list(teams(t))
        share = q[acting] / q[acting].sum()
        groups = [list(devices(t, 0, i)) for i in acting]
        drawn = {j: draws(j, taken[j]) for group in groups for j in group}
        own = theta if keep else w[team]
        now = read(hessian, samples, drawn, x, own, taken, groups, p, q, acting)
        loss = loss_at(hessian, samples, x, groups, p, share)
        if beyond > 0 and loss > worst:
            x, reach = x - beyond * last, reach - beyond
        else:
            kept = memory * kept + (1 - memory) * now
            weight, worst = memory * weight + 1 - memory, max(worst, loss)
        arguments = (kept / weight, count, alike, alpha, team, p)
        lam, moves = _pulls(*arguments, device_steps, team_steps, agreement)
        for i in acting:
            w[i] = x
            for k in range(team_steps):
                group = list(devices(t, k, i))
                for j in group:
                    theta[j] = w[i]
                    for _ in range(device_steps):
                        g = hessian[j] @ theta[j] - samples[j].mean(axis=0)
                        theta[j] = theta[j] - alpha * (g + lam[j] * (theta[j] - w[i]))
                    taken[j] += device_steps
                mean = sum(p[j] * theta[j] for j in group) / sum(p[j] for j in group)
                a, b, _ = moves[i]
                w[i] = (1 - a - b) * w[i] + b * x + a * mean
        way = q @ moves[:, 2]
        residual = (share @ w[acting] - x) / way
        if t:
            agree = residual @ last / (last @ last)
            wanted = np.clip(agree, 0, 0.5)
            factor = (1 - wanted) / max(1 - agree, 1 / 3)
            grown = residual @ residual > 4 * (last @ last)
            reach *= 0.5 if grown else max(factor, 0.5)
            agreement = memory * agreement + (1 - memory) * np.clip(agree, -1, 1)
        least = way * len(acting) / len(q)
        reach, last = max(reach, least), residual
        beyond = reach - least
        x = x + reach * residual
    return x, w, theta, lam
