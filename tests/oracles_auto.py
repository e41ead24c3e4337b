"""PerMFL-auto as plain NumPy loops on quadratics with full batches.

Nothing here imports the package. Every mean of squares is written out.
"""

import numpy as np


def _part(signal, noise):
    return signal / (signal + noise) if signal + noise > 0 else 1.0


def _device_share(h, alpha, lam, steps):
    return (1 - (1 - alpha * (h + lam)) ** steps) * h / (h + lam)


def _team_share(device, a, b, steps):
    left = max(1 - a * device - b, 0) ** steps  # what overshoots is taken for arrived
    return (1 - left) * a * device / (a * device + b)


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
    """The twelve numbers of a round, as `Spreads` has them.

    draws: of each device, signs and halves of its samples; own: a model of each, for
    those that have taken steps; groups: acting devices of each acting team; all_q:
    weights of all teams.
    """
    q = all_q[acting] / all_q[acting].sum()
    within = freedom = noise_sum = noise_freedom = 0.0
    at_own, heard, rough, travel = np.zeros((4, 2))
    steep, teams = np.zeros(2), []
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
                steeper = 2 * (1 - half).mean() * (hessian[j] @ v)
            else:
                steeper = hessian[j] @ g[j]
                rough += q[i] * s * np.array([g[j] @ steeper, g[j] @ g[j]])
            square = steeper @ steeper
            noisy = taken[j] and u @ u > 1e-12 * (g[j] @ g[j])
            steep += (
                q[i]
                * s
                * (
                    np.array([square / (1 - 1 / n), 0])
                    if noisy
                    else np.array([0, square])
                )
            )
            gone = (own[j] - x) * taken[j].astype(bool)
            travel += q[i] * s * np.array([gone @ hessian[j] @ gone, gone @ gone])
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
    return np.array([device, team, *at_own, *heard, *rough, *steep, *travel])


def loss_at(hessian, samples, x, groups, p, q):
    """Mean over devices of a team by p, over teams by q."""
    total = 0.0
    for i, group in enumerate(groups):
        share = np.array([p[j] for j in group])
        for s, j in zip(share / share.sum(), group, strict=True):
            total += q[i] * s * (x @ hessian[j] @ x / 2 - samples[j].mean(axis=0) @ x)
    return total


def _odds(share):
    return share / (1 - share)


def _pulls(now, count, alike, alpha, team, p, steps, team_steps, agreement, whole):
    """λ of each device; of each team a, b and how far it goes.

    whole: a + b. What the exact pulls are is said by odds: h/λ for a device, and for a
    team λ/γ times the share of its devices.
    """
    device, between, noise, freedom, *curved = now
    sample = noise / freedom if freedom else 0.0
    steep, travelled = curved[4:6], curved[6:]
    steep = steep[0] if curved[1] else steep[1]
    curved, energy = curved[:2] if curved[1] else curved[2:4]
    steepest = steep / abs(curved)
    furthest = np.clip(1 - (1 - alpha * steepest) ** steps, 1, 1.9)
    whole = min(whole, 1.9 / furthest)
    noise = sample * ((1 - alike) / count + alike * (1 / count).mean())
    device = max(device, 0)
    h = max(curved / energy, 1e-6 / alpha)
    soft = travelled[0] / travelled[1] if travelled[1] else h
    soft = min(np.clip(soft, max(0.01 * h, 1e-6 / alpha), h), 1 / alpha)
    exact = np.array([_part(device, n) for n in noise])
    shares = [1.0 if s == 1 else soft / (soft + h / _odds(s)) for s in exact]
    most = max(1 / alpha - steepest, 0)
    lam = np.array(
        [
            _bisect(lambda pull: _device_share(soft, alpha, pull, steps), share, most)
            for share in shares
        ]
    )
    moved = np.array([_device_share(soft, alpha, pull, steps) for pull in lam])
    rows = []
    for i in range(team.max() + 1):
        own = team == i
        mean = (p[own] * moved[own]).sum() / p[own].sum()
        target = _part(max(between, 0), 1 / (1 / (device + noise[own])).sum())
        if 0 < target < 1:
            all_ = (p[own] * exact[own]).sum() / p[own].sum()
            there = 1.0 if all_ == 1 else soft / (soft + h / _odds(all_))
            odds = _odds(target) * there / all_
            target = odds / (1 + odds)
        target = max(target, 0.2)
        target += max(0.95 - target, 0) * max(agreement, 0)
        inner = max(team_steps - 1, 1)
        ratio = _bisect(
            lambda r, mean=mean, inner=inner: _team_share(
                mean, whole / (1 + r), whole * r / (1 + r), inner
            ),
            target,
            mean * (1 / target - 1),
        )
        a, b = whole / (1 + ratio), whole * ratio / (1 + ratio)
        rows.append((a, b, _team_share(mean, a, b, team_steps)))
    return lam, np.array(rows)


def _stretch(agree):
    """To where a step would agree by 0 to 1/2 with the last; within 1/2 and 3/2."""
    return max((1 - np.clip(agree, 0, 0.5)) / max(1 - agree, 1 / 3), 0.5)


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
    """(x, w [M, P], θ [D, P], the last λ [D], the next a + b).

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
    kept, weight, reach, agreement, whole = np.zeros(12), 0.0, 1.0, 1.0, 1.0
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
        lam, moves = _pulls(*arguments, device_steps, team_steps, agreement, whole)
        turned = before = 0.0
        for i in acting:
            w[i], steps = x, [np.zeros_like(x)]
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
                steps.append(b * (x - w[i]) + a * (mean - w[i]))
                w[i] = w[i] + steps[-1]
            turned, before = (
                turned + steps[-1] @ steps[-2],
                before + steps[-2] @ steps[-2],
            )
        whole = np.clip(whole * _stretch(turned / before if before else 0.0), 1, 1.9)
        way = q @ moves[:, 2]
        residual = (share @ w[acting] - x) / way
        if t:
            agree = residual @ last / (last @ last)
            grown = residual @ residual > 4 * (last @ last)
            reach *= 0.5 if grown else _stretch(agree)
            agreement = memory * agreement + (1 - memory) * np.clip(agree, -1, 1)
        least = way * len(acting) / len(q)
        reach, last = max(reach, least), residual
        beyond = reach - least
        x = x + reach * residual
    return x, w, theta, lam, whole
