"""Pulls against the closed forms that they invert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import pulls, theory
from permfl_jax.spreads import Spreads


def spread(device, team, sample):
    rest = [0] * (len(Spreads._fields) - 6)
    return Spreads(*map(jnp.float64, (device, team, 2 * sample, 2, 1, 1, *rest)))


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
    np.testing.assert_allclose(nothing.team, 0)
    # Somebody has to tell the server something.
    least = pulls.team_elsewhere(nothing.team, jnp.zeros(2), 2.0, 0.5)
    np.testing.assert_allclose(least, 0.2)
    exact = shares_of(spread(0, 0, 0), [10, 10, 40])
    np.testing.assert_allclose(exact.device, 1)
    one = shares_of(spread(1, 2, 10), [10, 10, 40], teams=(0, 0, 0), num_teams=1)
    np.testing.assert_allclose(one.team, 1)


def test_a_pull_takes_a_device_just_so_far():
    h, lr, steps = 1.5, 0.1, 20
    # The strongest pull makes the first step go to the prox: α·h = 0.15 of the way.
    # Without a pull, 20 steps go 1 - 0.85^20 = 0.961 of it.
    wanted, most = jnp.array([0.7, 0.2, 0.1, 0.99]), jnp.float64(1 / lr - h)
    pull = pulls.device_pull(wanted, jnp.float64(h), jnp.float64(lr), steps, most)
    reached = [theory.device_share(h, lr, float(p), steps) for p in pull]
    np.testing.assert_allclose(reached, [0.7, 0.2, 0.15, 1 - 0.85**20])
    np.testing.assert_allclose(pull[2:], [1 / lr - h, 0], atol=1e-9)


@pytest.mark.parametrize("relaxation", [1.0, 1.6])
@pytest.mark.parametrize("wanted", [0.3, 0.6, 0.9])
def test_a_team_goes_just_so_far(wanted, relaxation):
    """With whole moves 5 rounds can get 1 - 0.6^5 = 92 % of the way."""
    device = jnp.float64(0.4)
    a, b = pulls.team_moves(
        jnp.array([wanted]), device[None], jnp.float64(relaxation), 5
    )
    # The closed form has η, λ and γ: take λ = 1, so that η = a and γ = b/a.
    reached = theory.team_share(0.4, float(a[0]), float(b[0] / a[0]), 5)
    assert a[0] + b[0] == pytest.approx(relaxation)
    if a[0] * device + b[0] < 1:
        assert reached == pytest.approx(wanted)
    else:  # each step comes back from the last: the fixed point is the place
        assert 0.4 / (0.4 + float(b[0] / a[0])) == pytest.approx(wanted)


def test_a_team_that_cannot_get_so_far_forgets_the_server():
    few, device = jnp.array([0.95]), jnp.array([0.01])
    a, b = pulls.team_moves(few, device, jnp.float64(1.9), 5)
    np.testing.assert_allclose([a[0], b[0]], [1.9, 0], atol=1e-9)


@pytest.mark.parametrize("there", [0.05, 0.4, 7.0])
def test_shares_elsewhere_are_those_of_the_same_pulls(there):
    """Of exact loops: h/(h+λ), and of its way s a team goes s/(s+γ/λ)."""
    here, prox, ratio = 2.0, np.array([0.0, 0.3, 4.0]), 0.2
    share, other = (jnp.asarray(h / (h + prox)) for h in (here, there))
    np.testing.assert_allclose(pulls.elsewhere(share, here, there), other)
    team, other_team = (s / (s + ratio) for s in (share, other))
    found = pulls.team_elsewhere(team, share, here, there)
    np.testing.assert_allclose(found, np.maximum(other_team, 0.2))


def test_a_team_whose_devices_are_all_alike_still_has_odds():
    """Devices' shares fall as h then: λ is far above any curvature."""
    near = jnp.array([1e-9, 0.0])
    found = pulls.team_elsewhere(jnp.array([0.6, 0.6]), near, 2.0, 0.5)
    np.testing.assert_allclose(found, 1.5 * 0.25 / (1 + 1.5 * 0.25), rtol=1e-6)


def read(curved, steep, travelled):
    """What was read along u and δ, both of length 1; in float32, as devices have it."""
    fields = dict.fromkeys(Spreads._fields, 0) | {
        "curved": curved,
        "energy": 1,
        "steep": steep,
        "travel_curved": travelled,
        "travel_energy": 1,
    }
    return Spreads(**{name: jnp.float32(value) for name, value in fields.items()})


@pytest.mark.parametrize(
    ("curved", "travelled", "wanted"),
    [
        (2, 0.5, (2, 0.5)),
        (2, 5, (2, 2)),  # no softer than along the noise
        (2, 1e-9, (2, 0.02)),
        (30, 12, (30, 10)),  # one step of α goes all the way
        (-2, -1, (1e-5, 1e-5)),  # not convex
    ],
)
def test_curvatures_are_those_that_steps_can_take(curved, travelled, wanted):
    found = pulls.curvatures(read(curved, 1, travelled), jnp.float32(0.1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    gone = pulls.device_share(found[1], jnp.float32(0.1), jnp.float32(0), 1)
    assert 0 < gone <= 1
    assert 0 < pulls.team_share(gone, *map(jnp.float32, (1, 0)), 1) <= 1


@pytest.mark.parametrize(
    ("steep", "steps", "most", "relaxed"),
    [
        (6, 5, 7, 1.9),  # 1/α - 6/2
        (40, 4, 0, 1.9),  # each second step comes back from too far
        (30, 3, 0, 1.9 / (1 + 0.5**3)),  # the third does not
        (30, 1, 0, 1.9 / 1.5),
        (60, 1, 0, 1),
    ],
)
def test_what_is_steep_limits_lambda_and_a_plus_b(steep, steps, most, relaxed):
    """Curvatures of half of `steep`, α = 0.1."""
    spreads = read(2, steep, 1)
    for sign in (1, -1):  # of uᵀHu
        changed = spreads._replace(curved=sign * spreads.curved)
        found = pulls.limits(changed, jnp.float32(0.1), steps)
        np.testing.assert_allclose(found, (most, relaxed), rtol=1e-5)
    before = Spreads(*[jnp.float32(0)] * len(Spreads._fields))._replace(
        rough_curved=2 * spreads.energy, rough_steep=spreads.steep, curved=spreads.steep
    )
    found = pulls.limits(before, jnp.float32(0.1), steps)
    np.testing.assert_allclose(found, (most, relaxed), rtol=1e-5)
