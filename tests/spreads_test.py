"""What one look at x tells: unbiased, and nothing where nothing can be told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import spreads
from permfl_jax.federation import from_arrays
from permfl_jax.local import Shared
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

DIM = 400


def loss(theta, batch):
    """Curvature 2, optimum at the mean of y."""
    return ((theta[None] - batch["y"]) ** 2).sum(axis=1)


def looked(counts, batch_size, draws=(None, None), seeds=10):
    """Mean over data and signs; σ_d = 1, σ_t = 2 around x = 0, a sample's σ = 3."""
    sizes = (3, 5, 4)
    of = np.repeat([0, 1, 2], sizes)
    count = np.resize(counts, len(of))
    sampler = Sampler(sizes, *draws)
    schedule = Schedule(batch_size=batch_size)

    def look(federation, key):
        teams = sampler.draw_teams(key)
        cohort = sampler.draw_devices(key, jnp.int32(0), teams, federation)
        cursor = jnp.ones(len(cohort.slot), jnp.int32)
        x = jnp.zeros(DIM)
        found, _ = spreads.look(
            *(loss, schedule, sampler, key, cohort, cursor, teams),
            *(x, Shared(jnp.ones((sampler.acting_teams, DIM))), federation),
        )
        return found

    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        centre = 2 * rng.normal(size=(3, DIM))[of] + rng.normal(size=(len(of), DIM))
        rows = [
            {"y": c + 3 * rng.normal(size=(n, DIM))}
            for c, n in zip(centre, count, strict=True)
        ]
        keys = jax.random.split(jax.random.key(seed), 60)
        many = jax.jit(jax.vmap(look, in_axes=(None, 0)))
        found.append(many(from_arrays(rows, of.tolist()), keys))
    mean = spreads.Spreads(*np.mean(found, axis=(0, 2)) / (4 * DIM))
    return mean._replace(freedom=mean.freedom * 4 * DIM)


def regression(theta, batch):
    return (batch["u"] @ theta - batch["y"]) ** 2 / 2


@pytest.mark.parametrize(
    ("batch_size", "acted"), [(None, True), (8, True), (None, False)]
)
def test_what_does_not_suit_x_is_not_noise(batch_size, acted):
    """Of least squares: u² is s² tr H/r at the truth, and h along it is tr H²/tr H.

    Few samples do not make h larger. Who has not acted says nothing of noise, and h is
    that along g.
    """
    rng, variances, error = np.random.default_rng(0), np.geomspace(0.2, 3, 6), 0.5
    u = rng.normal(size=(8, 500, 6)) * np.sqrt(variances)
    truth = rng.normal(size=(8, 6)) * [1, 1, 1, 1, 1, 4]  # g along the stiff axis
    y = np.einsum("jnd,jd->jn", u, truth) + error * rng.normal(size=(8, 500))
    rows = [{"u": a, "y": b} for a, b in zip(u, y, strict=True)]
    federation = from_arrays(rows, np.repeat([0, 1], 4).tolist())
    schedule, sampler = Schedule(batch_size=batch_size), Sampler.of(federation)
    cohort = sampler.draw_devices(jax.random.key(0), jnp.int32(0), None, federation)
    cursor = jnp.full(8, int(acted), jnp.int32)

    def look(key):
        given = (regression, schedule, sampler, key, cohort, cursor, None)
        return spreads.look(*given, jnp.zeros(6), jnp.asarray(truth), federation)[0]

    many = jax.jit(jax.vmap(look))(jax.random.split(jax.random.key(1), 1000))
    found = spreads.Spreads(*np.mean(many, axis=1))
    curvature = (variances**2).sum() / variances.sum()
    if acted:
        assert found.sample / variances.sum() == pytest.approx(error**2, rel=0.1)
    else:
        assert found.sample == 0
        curvature = (truth**2 @ variances**3).sum() / (truth**2 @ variances**2).sum()
    assert found.curvature == pytest.approx(curvature, rel=0.1)
    # On the ways from x = 0 to the truths; x is all that the others have seen.
    softer = (truth**2 @ variances).sum() / (truth**2).sum()
    assert found.softer == pytest.approx(softer if acted else curvature, rel=0.1)
    steeper = (variances**3).sum() / (variances**2).sum()
    if not acted:
        along_g = (truth**2 @ variances**4).sum() / (truth**2 @ variances**3).sum()
        assert found.steepest == pytest.approx(along_g, rel=0.1)
    elif batch_size is None:
        assert found.steepest == pytest.approx(steeper, rel=0.1)
    else:  # of few samples, H says more
        assert found.steepest > 1.1 * steeper
    # Between optima, whatever the noise.
    apart = (variances * truth).reshape(2, 4, 6).var(axis=1, ddof=1).sum(axis=1)
    assert found.device == pytest.approx(apart.mean(), rel=0.15)


def test_the_rest_of_a_pass_is_not_read():
    """9 samples are batches of 4, 4 and 1: the third round reads the second again."""
    y = np.random.default_rng(0).normal(size=(2, 9, DIM))
    federation = from_arrays([{"y": rows} for rows in y], [0, 0])
    sampler, key = Sampler.of(federation), jax.random.key(0)
    cohort = sampler.draw_devices(key, jnp.int32(0), None, federation)

    def look(cursor):
        found, _ = spreads.look(
            *(loss, Schedule(batch_size=4), sampler, key, cohort),
            *(jnp.full(2, cursor, jnp.int32), None, jnp.zeros(DIM), jnp.ones((2, DIM))),
            federation,
        )
        return np.asarray(found)

    np.testing.assert_array_equal(look(2), look(1))
    np.testing.assert_array_equal(look(5), look(4))
    assert np.abs(look(3) - look(4)).max() > 1e-3


@pytest.mark.parametrize(
    ("batch_size", "draws"), [(None, (None, None)), (4, (None, None)), (4, (2, 2))]
)
def test_spreads_are_those_of_the_optima(batch_size, draws):
    """In units of h² a coordinate; the second batch of 4 of 5 samples is not read."""
    found = looked((5, 9, 13), batch_size, draws)
    assert found.sample == pytest.approx(9, rel=0.05)
    assert found.device == pytest.approx(1, abs=0.2)
    # x is not fitted to these teams: what is found is (σ_t² + v)/(1 - 1/3) - v.
    assert 4 < found.team < 1.5 * 5.5
    assert found.curvature == pytest.approx(2, rel=0.05)
    # Half of few samples is a little more or less than half: never too soft.
    assert 1.95 < found.steepest < (2.6 if batch_size else 2.3)


def test_alike_teams_of_unequal_weight_are_not_taken_for_different():
    """Teams of 2, 4, 8 and 26 devices, weighted so, x at the mean of all: σ_t is 0."""
    sizes, found = (2, 4, 8, 26), []
    of = np.repeat(np.arange(4), sizes)
    schedule, sampler = Schedule(batch_size=None, weights="samples"), Sampler(sizes)
    for seed in range(40):
        y = np.random.default_rng(seed).normal(size=(40, DIM))
        federation = from_arrays([{"y": row[None]} for row in y], of.tolist())
        key = jax.random.key(seed)
        cohort = sampler.draw_devices(key, jnp.int32(0), None, federation)
        cursor, x = jnp.zeros(40, jnp.int32), jnp.asarray(y.mean(axis=0))
        own = jnp.ones((40, DIM))
        given = (loss, schedule, sampler, key, cohort, cursor, None, x, own, federation)
        found.append(spreads.look(*given)[0].team / (4 * DIM))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found)) < 0.02


def test_one_device_of_the_only_team_is_half_trusted():
    """There is nobody to compare it with; λ at its most would freeze it."""
    y = np.random.default_rng(0).normal(size=(5, 9, DIM))
    federation = from_arrays([{"y": rows} for rows in y], [0] * 5)
    sampler, key = Sampler((5,), None, 1), jax.random.key(0)
    cohort = sampler.draw_devices(key, jnp.int32(0), None, federation)
    found, _ = spreads.look(
        *(loss, Schedule(batch_size=None), sampler, key, cohort),
        *(jnp.ones(1, jnp.int32), None, jnp.zeros(DIM), jnp.ones((1, DIM))),
        federation,
    )
    assert float(found.device) == pytest.approx(float(found.sample) / 9, rel=0.05)
    assert found.sample > 0


def test_one_device_a_team_halves_what_both_spreads_make():
    """(σ_t² + σ_d² + v)/(1 - 1/3) - v, where v is the noise of a batch of 4."""
    found = looked((9,), 4, (None, 1))
    assert found.device == pytest.approx(found.team, rel=0.02)
    assert found.sample == pytest.approx(9, rel=0.05)
    v = 9 / 4
    assert 2 * found.device == pytest.approx(1.5 * (4 + 1 + v) - v, rel=0.15)


def test_halves_stay_halves_where_noise_leaves_less_than_nothing():
    """And a weight that should be 1 may miss it by a rounding."""
    one = jnp.ones(2, jnp.float32)
    sums = spreads._Sums(*[one] * len(spreads._Sums._fields))._replace(
        energy=5 * one,
        own=one - 6e-8,
        noise=0.5 * one,
        own_noise=0.5 * one,
        sample=9 * one,
        freedom=0.5 * one,
        at_own=7 * one,
        own_freedom=0.5 * one,
        loss=3 * one,
    )
    size, teams = jnp.full(2, 3, jnp.float32), jnp.full(2, 0.5, jnp.float32)
    found, at_x = spreads._spreads(sums, size, teams, None)
    assert float(found.sample) == 14
    assert float(found.device) == float(found.team) == (3 / 0.5 - 18 * 0.5) / 2 < 0
    assert float(at_x) == 3


def test_one_sample_tells_nothing_of_samples_and_one_team_nothing_of_teams():
    found = looked((1,), None, seeds=2)
    assert found.sample == 0
    assert found.device == pytest.approx(10, rel=0.1)  # σ_d² and the sample's own
    federation = from_arrays(
        [{"y": np.ones((4, DIM))}, {"y": np.zeros((4, DIM))}], [0, 0]
    )
    sampler = Sampler.of(federation)
    cohort = sampler.draw_devices(jax.random.key(0), jnp.int32(0), None, federation)
    alone, at_x = spreads.look(
        loss,
        Schedule(batch_size=None),
        sampler,
        jax.random.key(0),
        cohort,
        jnp.zeros(2, jnp.int32),
        None,
        jnp.zeros(DIM),
        jnp.ones((2, DIM)),
        federation,
    )
    assert alone.team <= 0
    assert alone.device == pytest.approx(4 * DIM / 2)
    assert at_x == pytest.approx(DIM / 2)  # one device is at its optimum


def test_ratio_of_nothing_is_nothing():
    over = jnp.array([2.0, 0.0, -1.0])
    assert spreads.ratio(jnp.ones(3), over).tolist() == [0.5, 0, 0]
