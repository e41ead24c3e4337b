"""Devices whose classes tell their group."""

import numpy as np


def groups(seed, sizes, strength=0.9):
    """Devices of M groups, each mostly of its own class, shuffled."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    chance = np.full((len(truth), 6), (1 - strength) / 5)
    chance[np.arange(len(truth)), truth] = strength
    counts = np.stack([rng.multinomial(rng.integers(20, 200), p) for p in chance])
    return truth, counts
