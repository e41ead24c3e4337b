"""Pulls against the closed forms that they invert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import pulls, theory
from permfl_jax.spreads import Spreads


def spread(device, team, sample):
    return Spreads(*map(jnp.float64, (device, team, 2 * sample, 2, 1, 1, 0, 0)))


def shares_of(spreads, counts, alike=0.0, teams=(0, 0, 1), num_teams=2):
    def team_sum(rows):
        return jax.ops.segment_sum(rows, jnp.array(teams), num_teams)

    return pulls.best_shares(spreads, jnp.array(counts), jnp.float64(alike), team_sum)


def test_shares_are_signal_over_signal_and_noise():
    """σ_d² = 1, a sample's variance 10, σ_t² = 2."""
    shares = shares_of(spread(1, 2, 10), [10, 10, 40])
    np.testing.assert_allclose(shares.device, [1 / 2, 1 / 2, 1 / 1.25])
    # The means of two devices with variance 2, and of one with 1.25.
    np.testing.assert_allclose(shares.team, [2 / (2 + 1), 2 / (2 + 1.25)])
    alike = shares_of(spread(1, 2, 10), [10, 10, 40], alike=1.0)
    np.testing.assert_allclose(alike.device, 1 / (1 + 10 * (0.1 + 0.1 + 0.025) / 3))


def test_shares_stay_between_their_ends():
    nothing = shares_of(spread(-3, -5, 10), [10, 10, 40])
    np.testing.assert_allclose(nothing.device, 0)
    np.testing.assert_allclose(nothing.team, 0.2)
    exact = shares_of(spread(0, 0, 0), [10, 10, 40])
    np.testing.assert_allclose(exact.device, 1)
    one = shares_of(spread(1, 2, 10), [10, 10, 40], teams=(0, 0, 0), num_teams=1)
    np.testing.assert_allclose(one.team, 1)


def test_a_pull_takes_a_device_just_so_far():
    h, lr, steps = 1.5, 0.1, 20
    # The strongest pull makes the first step go to the prox: α·h = 0.15 of the way.
    # Without a pull, 20 steps go 1 - 0.85^20 = 0.961 of it.
    wanted = jnp.array([0.7, 0.2, 0.1, 0.99])
    pull = pulls.device_pull(wanted, jnp.float64(h), jnp.float64(lr), steps)
    reached = [theory.device_share(h, lr, float(p), steps) for p in pull]
    np.testing.assert_allclose(reached, [0.7, 0.2, 0.15, 1 - 0.85**20])
    np.testing.assert_allclose(pull[2:], [1 / lr - h, 0], atol=1e-9)


@pytest.mark.parametrize("wanted", [0.3, 0.6, 0.9, 0.97])
def test_a_team_goes_just_so_far(wanted):
    """With whole moves 5 rounds get 1 - 0.6^5 = 92 % of the way; then faster ones."""
    device = jnp.float64(0.4)
    a, b = pulls.team_moves(jnp.array([wanted]), device[None], 5)
    # The closed form has η, λ and γ: take λ = 1, so that η = a and γ = b/a.
    reached = theory.team_share(0.4, float(a[0]), float(b[0] / a[0]), 5)
    assert reached == pytest.approx(wanted)
    if wanted < 0.92:
        assert float(a[0] + b[0]) == pytest.approx(1)
    else:
        assert a[0] > 1
        assert b[0] == 0


def test_a_team_never_goes_further_than_is_stable():
    a, b = pulls.team_moves(jnp.array([0.95]), jnp.array([0.01]), 5)
    assert (float(a[0]), float(b[0])) == (1.9, 0)
