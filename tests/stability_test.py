"""Verdicts on step sizes against the map of a whole round."""

import numpy as np
import oracles
import pytest
from step_sizes import ENDS, HIGH, LAM, mixing, settings

from permfl_jax import stability
from permfl_jax.theory import Curvature


@pytest.mark.parametrize("level", ["device_lr", "team_lr", "server_lr"])
def test_the_unstable_level_is_where_the_exact_round_grows(level):
    ends = Curvature(3.0, 3.0)
    f = oracles.random_quadratics(1, (1,), 1)
    f.hessian[:] = 3.0
    calm = settings(k=4, ell=4)
    assert stability.unstable_level(ends, calm, LAM) is None
    wild = calm._replace(**{level: 200.0})
    found = stability.unstable_level(ends, wild, LAM)
    assert found.name == level
    limit = 2 / found.curvature
    below, above = (calm._replace(**{level: s * limit}) for s in (0.99, 1.01))
    assert stability.unstable_level(ends, below, LAM) is None
    assert stability.unstable_level(ends, above, LAM).name == level
    for numbers, grows in ((below, False), (above, True)):  # the round map itself
        matrix, _ = oracles.round_map(f, **mixing(numbers))
        assert (abs(matrix[0, 0]) > 1) == grows


def grows_somewhere(ends, numbers):
    """The round map along 300 curvatures at once, as one diagonal Hessian."""
    f = oracles.random_quadratics(1, (1,), 300)
    f.hessian[:] = np.diag(np.linspace(*ends, 300))
    matrix, _ = oracles.round_map(f, **mixing(numbers))
    return not abs(np.diag(matrix)).max() <= 1


def test_the_verdict_on_a_round_is_that_of_its_map():
    """Whatever K and L, odd or even, and wherever in the interval it happens."""
    rng, told = np.random.default_rng(0), []
    for _ in range(400):
        k, ell = rng.integers(1, 6, 2)
        numbers = settings(k, ell)
        longer = rng.uniform(0.5, 3.0, 3)
        numbers = numbers._replace(
            device_lr=numbers.device_lr * longer[0],
            team_lr=numbers.team_lr * longer[1],
            server_lr=numbers.server_lr * longer[2] ** 2,
        )
        found = stability.unstable_level(ENDS, numbers, LAM)
        grows = grows_somewhere(ENDS, numbers)
        assert (found is not None and found.grows) == grows
        told.append((grows, found is not None, found and found.where < HIGH))
    # All that can be told was: growth, overshoot alone, growth inside the interval.
    assert {(True, True, False), (True, True, True), (False, True, False)} < set(told)
    assert (False, False, None) in told
