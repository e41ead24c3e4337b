"""PerMFL-auto: a plain loop of a whole round, the best linear risk, what is safe."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import oracles_auto
import pytest
from federations import quadratic_federation, quadratic_loss
from worlds import SEED, run_from, traced, vectors, world

from permfl_jax import keys, runner, spreads
from permfl_jax import reach as reaching
from permfl_jax.algorithms import permfl_auto as auto
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.local import Shared
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

STEPS = {"team_steps": 3, "device_steps": 12}
GIVEN = {
    "device_lr": 0.1,
    "team_lr": 0.3,
    "server_lr": 0.7,
    "device_prox": 0.9,
    "team_prox": 0.6,
}
ALPHA = {"device_lr": 0.2}


def draws_of(federation):
    """`(device, cursor) -> signs, halves of samples`, as `reading.signed` has them."""
    stream = keys.batch_key(jax.random.key(SEED))
    longest = federation.train.max_count

    def draws(j, cursor):
        _, noise = jax.random.split(jax.random.fold_in(stream, j))
        block = jax.random.fold_in(jax.random.fold_in(noise, int(cursor)), 0)
        sign_key, _ = jax.random.split(block)
        sign = jax.random.rademacher(sign_key, (longest,), float)
        half = jax.random.bernoulli(jax.random.fold_in(sign_key, 1), shape=(longest,))
        count = int(federation.train.count[j])
        return np.asarray(sign)[:count], np.asarray(half, float)[:count]

    return draws


@pytest.mark.parametrize(("alike", "keep"), [(0.0, True), (1.0, True), (0.0, False)])
@pytest.mark.parametrize("name", ["uniform", "samples", "draws", "samples_draws"])
def test_every_tier_equals_the_plain_loop(name, alike, keep):
    place = world(name)
    train = place.federation.train
    x, w, theta, pulls, relaxation = oracles_auto.permfl_auto_loop(
        [np.asarray(train.pool["hessian"])[i] for i in np.asarray(train.start)],
        np.split(np.asarray(train.pool["linear"]), np.asarray(train.start)[1:]),
        draws_of(place.federation),
        place.start,
        place.team,
        alpha=0.2,
        alike=alike,
        memory=0.7,
        rounds=4,
        **STEPS,
        p=place.weight,
        q=place.team_weight,
        teams=place.teams,
        devices=place.devices,
        keep=keep,
    )
    options = {**STEPS, "keep_personal": keep}
    state = place.run("permfl_auto", {**ALPHA, "alike": alike}, 4, **options)
    assert pulls.min() > 0.01  # neither 0 nor the most
    assert pulls.max() < 1 / ALPHA["device_lr"] - 2.5
    assert (len(np.unique(pulls.round(6))) > 1) == (alike == 0)
    np.testing.assert_allclose(state.extra.relaxation, relaxation, rtol=1e-8)
    np.testing.assert_allclose(state.server, x, rtol=1e-8)
    np.testing.assert_allclose(state.team, w, rtol=1e-8)
    if keep:
        np.testing.assert_allclose(state.device, theta, rtol=1e-8)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", ["uniform", "samples_draws_batches"])
def test_switched_off_it_is_permfl_to_the_bit(name, keep):
    place, options = world(name), {**STEPS, "keep_personal": keep}
    off = place.run("permfl_auto", {**GIVEN, "adapt": 0.0}, 4, **options)
    same = place.run("permfl", GIVEN, 4, **options)
    chex.assert_trees_all_equal(off._replace(extra=None), same._replace(extra=None))
    on = place.run("permfl_auto", GIVEN, 4, **options)
    assert np.abs(vectors(on.server, 1) - vectors(same.server, 1)).max() > 1e-3


def random_effects(seed, spread, counts, sizes, dim=40):
    """Devices' samples, the truth, and the risk of the best linear estimate of it.

    Estimates are flat-prior posterior means for known spreads, SPEC A.6, also for
    samples and teams of unequal size. The risk is that of these very data.
    """
    device, team, noise = spread  # of the mean of counts[0] samples
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(sizes)), sizes)
    count = np.resize(counts, len(of))
    centre = 3 + team * rng.normal(size=(len(sizes), dim))[of]
    truth = centre + device * rng.normal(size=centre.shape)
    each = noise * np.sqrt(counts[0])
    samples = [
        c + each * rng.normal(size=(n, dim)) for c, n in zip(truth, count, strict=True)
    ]
    mean = np.stack([rows.mean(axis=0) for rows in samples])
    prior = team**2 * (of[:, None] == of) + device**2 * np.eye(len(of))
    weigh = np.linalg.inv(prior + np.diag(each**2 / count))
    middle = weigh.sum(axis=0) @ mean / weigh.sum()
    best = middle + prior @ weigh @ (mean - middle)
    federation = from_arrays([{"y": rows} for rows in samples], of.tolist())
    return federation, truth, ((best - truth) ** 2).mean()


def distance(theta, batch):
    return ((theta[None] - batch["y"]) ** 2).sum(axis=1) / 2


@functools.cache
def method_of(sizes, **schedule):
    return auto.permfl_auto(distance, Schedule(**schedule), Sampler(sizes))


EQUAL, UNEQUAL = (10, 10, 10, 10), (3, 6, 12, 19)


@pytest.mark.parametrize(
    ("spread", "counts", "sizes", "lr"),
    [
        ((1, 2, 1), (8,), EQUAL, 0.05),
        ((0.5, 2, 1), (8,), EQUAL, 0.05),
        ((1, 0.5, 1), (8,), EQUAL, 0.05),
        ((1, 4, 1), (8,), EQUAL, 0.05),
        ((1, 0, 1), (8,), EQUAL, 0.05),  # teams are no teams
        # With 40 samples the best is 91 % of the way: 20 steps must be able to go it.
        ((1, 1, 1), (4, 8, 40), UNEQUAL, 0.2),
    ],
)
def test_risk_is_within_2_percent_of_the_best_linear_estimate(
    spread, counts, sizes, lr
):
    method = method_of(sizes, team_steps=10, device_steps=20, batch_size=None)
    risks = []
    for seed in range(3):
        federation, truth, best = random_effects(seed, spread, counts, sizes)
        state = runner.start(method, jnp.zeros(40), federation)
        numbers = auto.HParams(device_lr=lr).traced()
        key = jax.random.key(seed)
        *_, (state, _) = runner.run(method, key, numbers, state, federation, 40, 40)
        risks.append((((np.asarray(state.device) - truth) ** 2).mean(), best))
    reached, best = np.mean(risks, axis=0)
    assert reached <= 1.02 * best


@pytest.mark.parametrize(
    ("low", "high", "lr"), [(0.01, 8, 0.1), (0.001, 50, 0.02), (0.2, 3, 0.01)]
)
def test_a_wide_spectrum_neither_diverges_nor_waits(low, high, lr):
    """x never leaves the ball that holds everything, and is there after 20 rounds."""
    f = oracles.random_quadratics(3, (5, 5, 5, 5), 8, low=low, high=high)
    federation = quadratic_federation(f)
    schedule = Schedule(team_steps=4, device_steps=5, batch_size=None)
    method = auto.permfl_auto(quadratic_loss, schedule, Sampler.of(federation))
    state = runner.start(method, jnp.zeros(8), federation)
    numbers, path = auto.HParams(device_lr=lr).traced(), []
    reach, relaxation = [], []
    key = jax.random.key(0)
    for now, _ in runner.run(method, key, numbers, state, federation, 80):
        path.append(np.asarray(now.server))
        reach.append(float(now.extra.reach.length))
        relaxation.append(float(now.extra.relaxation))
    pooled = np.linalg.solve(f.hessian.mean(axis=0), f.linear.mean(axis=0))
    assert max(np.linalg.norm(x) for x in path) < 1.5 * np.linalg.norm(pooled)
    away = [np.linalg.norm(x - path[-1]) for x in path]
    assert away[20] < 0.01 * np.linalg.norm(pooled)
    assert away[60] < 1e-3 * np.linalg.norm(pooled)
    # Over-relaxed, so that there was something to guard: x, or teams where α is short.
    assert (max(reach) > 1, max(relaxation) > 1) == (lr != 0.01, lr == 0.01)


@pytest.mark.parametrize(("lr", "share"), [(0.05, 0.5), (1.0, 1.0)])
def test_there_is_no_pull_where_the_first_step_would_overshoot(lr, share):
    """Half of the way is right; with h = 1 and α = 1 one step goes all of it."""
    method = method_of(EQUAL, team_steps=10, device_steps=20, batch_size=None)
    federation, _, _ = random_effects(0, (1, 2, 1), (8,), EQUAL)
    state = runner.start(method, jnp.zeros(40), federation)
    numbers, key = auto.HParams(device_lr=lr).traced(), jax.random.key(0)
    *_, (_, metrics) = runner.run(method, key, numbers, state, federation, 8, 8)
    assert float(np.ravel(metrics["device/share"])[-1]) == pytest.approx(share, abs=0.1)


def test_one_sample_at_a_time_is_refused():
    with pytest.raises(InputError, match=r"^--algorithm=permfl_auto .*2 or more; got"):
        auto.permfl_auto(distance, Schedule(batch_size=1), Sampler((2,)))


def squared_error(theta, batch):
    return (batch["u"] @ theta - batch["y"]) ** 2 / 2


@pytest.mark.parametrize("keep", [True, False])
def test_samples_are_judged_at_what_devices_have_learned(keep):
    """At their own models; at their teams' where they keep none."""
    rng = np.random.default_rng(0)
    rows = [{"u": rng.normal(size=(20, 3)), "y": rng.normal(size=20)} for _ in range(6)]
    federation = from_arrays(rows, [0, 0, 0, 1, 1, 1])
    schedule = Schedule(**STEPS, batch_size=None, keep_personal=keep)
    sampler, key = Sampler.of(federation), jax.random.key(0)
    method = auto.permfl_auto(squared_error, schedule, sampler)
    numbers = auto.HParams(device_lr=0.1, memory=0.7).traced()
    start = runner.start(method, jnp.full(3, 5.0), federation)
    run = runner.run(method, key, numbers, start, federation, 2)
    before, after = (jax.device_get(state) for state, _ in run)

    def read(own):
        cohort = sampler.draw_devices(key, jnp.int32(0), None, federation)
        given = (squared_error, schedule, sampler, key, cohort, before.cursor, None)
        new, _ = spreads.look(*given, before.server, own, federation)
        return float(0.7 * before.extra.spreads.noise + 0.3 * new.noise)

    teams, servers = (
        Shared(jnp.asarray(models))
        for models in (before.team, np.tile(before.server, (2, 1)))
    )
    own = jnp.asarray(before.device) if keep else teams
    assert after.extra.spreads.noise == pytest.approx(read(own), rel=1e-10)
    for other in (servers, teams) if keep else (servers,):
        assert after.extra.spreads.noise != pytest.approx(read(other), rel=1e-3)


def flat_then_steep(theta, batch):
    """At 0 there is no curvature, and α steps seem to go no part of the way."""
    return (theta**4).sum() / 4 - batch["y"] @ theta


def flat_then_nowhere(theta, batch):
    return flat_then_steep(theta, batch) + jnp.where(theta.max() > 100, jnp.nan, 0)


@pytest.mark.parametrize("loss", [flat_then_steep, flat_then_nowhere])
def test_x_that_was_thrown_far_comes_back_to_plain_averaging(loss):
    y = 1 + 0.1 * np.arange(6)
    rows = [{"y": np.full((4, 3), value)} for value in y]
    federation = from_arrays(rows, [0, 0, 0, 1, 1, 1])
    schedule = Schedule(**STEPS, batch_size=None)
    method = auto.permfl_auto(loss, schedule, Sampler.of(federation))
    numbers = auto.HParams(device_lr=0.05).traced()
    state = runner.start(method, jnp.zeros(3), federation)
    run = runner.run(method, jax.random.key(0), numbers, state, federation, 12)
    path = [jax.device_get(state) for state, _ in run]
    thrown = path[0]
    assert thrown.server.min() > 1000  # devices' optima are near 1
    far, back, _ = reaching.look(thrown.extra.reach, thrown.server, np.float64(1))
    assert far
    np.testing.assert_allclose(back, thrown.team.mean(axis=0), rtol=1e-9)
    assert (
        path[1].extra.reach.worst == 0
    )  # as it was at the start; what is far was not read
    for state in path[1:]:
        assert np.abs(state.server).max() < 1.2
    # Between the mean of the devices' optima and the optimum of their mean.
    assert np.all((y ** (1 / 3)).mean() < path[-1].server)
    assert np.all(path[-1].server < y.mean() ** (1 / 3))


@pytest.mark.parametrize("loss", [flat_then_steep, squared_error])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_no_curvature_is_no_division_by_zero_in_float32(loss, batch_size):
    """Where 1 - αh is 1: at 0, and where a device's gradient hangs on nothing."""
    rows = [
        {"y": np.full(4, value, np.float32), "u": np.zeros((4, 3), np.float32)}
        for value in (1, 1.1, 1.2, 1.3)
    ]
    if loss is flat_then_steep:
        rows = [{"y": np.tile(row["y"][:, None], 3)} for row in rows]
    federation = from_arrays(rows, [0, 0, 1, 1])
    schedule = Schedule(**STEPS, batch_size=batch_size)
    method = auto.permfl_auto(loss, schedule, Sampler.of(federation))
    numbers = auto.HParams(device_lr=0.05).traced()
    state = runner.start(method, jnp.zeros(3, jnp.float32), federation)
    *_, (state, _) = runner.run(
        method, jax.random.key(0), numbers, state, federation, 6, 6
    )
    chex.assert_tree_all_finite((state.server, state.team, state.device))
    assert np.abs(state.server).max() < 3


def test_a_run_goes_on_from_what_it_has_learned():
    place = world("samples_draws_batches")
    method = place.algorithm("permfl_auto", **STEPS)
    whole = place.run("permfl_auto", ALPHA, 4, **STEPS)

    def resumed(forget):
        half = place.run("permfl_auto", ALPHA, 2, **STEPS)
        if forget:
            fresh = runner.start(method, place.params, place.federation)
            half = half._replace(extra=fresh.extra)
        return run_from(half, method, "permfl_auto", ALPHA, place.federation, 2)

    chex.assert_trees_all_equal(resumed(False), whole)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(resumed(True), whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [("device_lr", 0.0), ("adapt", -1.0), ("alike", 1.5), ("memory", 1.0)],
)
def test_hyper_parameters_are_checked_where_they_are_born(name, value):
    with pytest.raises(InputError, match=name):
        auto.HParams(**{name: value})


def test_the_numbers_of_permfl_are_those_of_permfl():
    chex.assert_trees_all_equal(
        traced("permfl_auto", GIVEN).given, traced("permfl", GIVEN)
    )
