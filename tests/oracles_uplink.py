"""PerMFL whose uploads are coded and lost, as a plain NumPy loop.

Nothing here imports the package: codes and draws are given as functions.
"""

import numpy as np


def largest(share):
    """The code `topk`, by sorting; ties go to the first."""

    def code(_, message):
        count = max(1, round(share * len(message)))
        order = sorted(range(len(message)), key=lambda i: -abs(message[i]))
        sent = np.zeros_like(message)
        sent[order[:count]] = message[order[:count]]
        return sent

    return code


class Tier:
    """The senders of one tier.

    `code` is `(draw, message) -> what is read` or `None`; `arrives` is `draw -> bool`;
    a draw is (t, k, number of the sender).
    """

    def __init__(self, count, dim, code=None, arrives=None, remembers=True):
        self.code, self.arrives = code, arrives or (lambda draw: True)
        self.remembers = remembers
        self.memory = np.zeros((count, dim))

    def read(self, draw, model, known):
        """What the receiver reads, or `None` if it is lost."""
        arrived, number = self.arrives(draw), draw[-1]
        if self.code is None:
            return model if arrived else None
        message = model - known + self.memory[number]
        sent = self.code(draw, message)
        if arrived and self.remembers:
            self.memory[number] = message - sent
        return known + sent if arrived else None


def mean(models, weights, otherwise):
    """Of those that are there."""
    there = [(m, p) for m, p in zip(models, weights, strict=True) if m is not None]
    if not there:
        return otherwise
    models, weights = zip(*there, strict=True)
    return np.average(models, axis=0, weights=weights)


def permfl(place, numbers, rounds, team_steps, device_steps, devices, teams, aggregate):
    """x, w `[M, P]` and θ `[D, P]` after `rounds`; `devices`, `teams` are tiers."""
    alpha, lam, a, b, g = numbers
    x = place.start
    count = len(place.team_weight)
    w, theta = np.tile(x, (count, 1)), np.tile(x, (len(place.team), 1))
    heard, seen = w.copy(), set()
    for t in range(rounds):
        read = {}
        for i in place.teams(t):
            w[i] = x
            for k in range(team_steps):
                acting, sent = place.devices(t, k, i), []
                for j in acting:
                    theta[j] = w[i]
                    for _ in range(device_steps):
                        pull = lam * (theta[j] - w[i])
                        theta[j] -= alpha * (place.gradient(j, 0, theta[j]) + pull)
                    sent.append(devices.read((t, k, j), theta[j], w[i]))
                centre = mean(sent, place.weight[acting], w[i])
                w[i] = (1 - a - b) * w[i] + b * x + a * centre
            read[i] = teams.read((t, 0, i), w[i], x)
            if read[i] is not None:
                heard[i] = read[i]
                seen.add(i)
        if aggregate != "participants":
            known = range(count) if aggregate == "stale" else sorted(seen)
            read = {i: heard[i] for i in known}
        where = list(read)
        centre = mean(list(read.values()), place.team_weight[where], x)
        x = (1 - g) * x + g * centre
    return x, w, theta
