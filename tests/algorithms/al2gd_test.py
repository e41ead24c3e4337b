"""AL2GD against a plain loop with its coins, and against PerMFL's optimum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from worlds import SEED, WORLDS, of_quadratics, traced, vectors, world

from permfl_jax import keys, runner
from permfl_jax.algorithms import ALGORITHMS, al2gd
from permfl_jax.algorithms.al2gd import HParams
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

STEPS = {"team_steps": 2, "device_steps": 5}
NUMBERS = {
    "device_lr": 0.1,
    "device_prox": 0.8,
    "team_prox": 0.5,
    "all_probability": 0.25,
    "team_probability": 0.4,
    "team_share": 0.3,
}


def coins(t, number, num_teams):
    """(uniform number of all, of each team): coins are below p₀, p_j."""
    key = keys.draw_key(jax.random.key(SEED))
    common, own = jax.random.split(
        jax.random.fold_in(jax.random.fold_in(key, t), number)
    )
    lots = [jax.random.uniform(jax.random.fold_in(own, i)) for i in range(num_teams)]
    return float(jax.random.uniform(common)), [float(lot) for lot in lots]


def mean(weight, rows, which):
    return sum(weight[n] * rows[n] for n in which) / sum(weight[n] for n in which)


def al2gd_loop(place, numbers, rounds, steps):
    """SPEC C.5 with γ_n = λ, λ_j = N_j γ. Gives (θ [D], w [M], θ̄, mini-batches)."""
    eta, lam, gamma, p0, pj, tau = numbers.values()
    alpha = gamma / (gamma + lam) if gamma + lam else 0
    theta = np.tile(place.start, (len(place.team), 1))
    w = np.tile(place.start, (len(place.team_weight), 1))
    x, seen = place.start, np.zeros(len(theta), int)
    for t in range(rounds):
        members = {i: place.devices(t, 0, i) for i in place.teams(t)}
        for number in range(steps + 1):
            own = {i: mean(place.weight, theta, members[i]) for i in members}
            x = mean(place.team_weight, own, members)
            if number == steps:
                break
            everyone, team = coins(t, number, len(w))
            for i, devices in members.items():
                for n in devices:
                    near, far = theta[n] - own[i], theta[n] - x
                    if everyone < p0:
                        pull = alpha * far + tau * (1 - alpha) * near
                        step = eta * lam / p0 * pull
                    elif team[i] < pj:
                        part = (1 - tau) * (1 - alpha) * near
                        step = eta * lam / ((1 - p0) * pj) * part
                    else:
                        slope = place.gradient(n, seen[n], theta[n])
                        step = eta / ((1 - p0) * (1 - pj)) * slope
                    theta[n] = theta[n] - step
                    seen[n] += 1
        for i in members:
            w[i] = (1 - alpha) * own[i] + alpha * x
    return theta, w, x, seen


def check_loop(place, numbers):
    theta, w, x, seen = al2gd_loop(place, numbers, 3, 10)
    state = place.run("al2gd", numbers, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.device, len(theta)), theta, rtol=1e-10)
    np.testing.assert_allclose(vectors(state.team, len(w)), w, rtol=1e-10)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    check_loop(world(name), NUMBERS)


@pytest.mark.parametrize(("lam", "gamma"), [(0.0, 0.0), (0.0, 0.5), (0.8, 0.0)])
def test_equals_the_plain_loop_without_a_pull(lam, gamma):
    numbers = NUMBERS | {"device_prox": lam, "team_prox": gamma}
    check_loop(world("samples"), numbers)


# Unequal teams; uniform means, and means by samples at both levels.
def quadratics(weights):
    f, counts = oracles.random_quadratics(21, (1, 2, 5), 3), [3, 1, 4, 2, 7, 1, 5, 2]
    place = of_quadratics(f, counts, weights)
    team = np.array([place.weight[f.team == i].sum() for i in range(f.num_teams)])
    f.p = place.weight / team[f.team]
    f.q = place.team_weight / place.team_weight.sum()
    return f, place


def one_round(place, hparams, device, **schedule):
    """A round from given θ, traced anew; gives θ."""
    algorithm = ALGORITHMS["al2gd"].factory(
        place.loss, Schedule(**place.schedule, **schedule), place.sampler
    )
    state = runner.start(algorithm, place.params, place.federation)
    state = state._replace(device=jnp.asarray(device))
    key, numbers = jax.random.key(SEED), traced("al2gd", hparams)
    return jax.jit(algorithm.round)(key, numbers, state, place.federation)[0].device


def expected_step(place, hparams, device, monkeypatch):
    """θ' - θ in the mean over the three cases, each forced on the coins."""
    p0, pj = hparams["all_probability"], hparams["team_probability"]
    cases = {
        (True, False): p0,
        (False, True): (1 - p0) * pj,
        (False, False): (1 - p0) * (1 - pj),
    }
    total = 0
    for (everyone, team), probability in cases.items():
        forced = al2gd.Coins(jnp.bool_(everyone), jnp.full(3, team))
        monkeypatch.setattr(al2gd, "toss", lambda *_, forced=forced: forced)
        moved = one_round(place, hparams, device, team_steps=1, device_steps=1)
        total += probability * (np.asarray(moved) - device)
    return total


def objective_slopes(f, place, lam, gamma, device):
    """∂Φ/∂θ_n / m_n by the joint form: w and x solved for as one linear system."""
    num, eye = f.num_teams, np.eye(f.num_teams)
    means = np.stack([mean(place.weight, device, f.members(i)) for i in range(num)])
    # λ(w_j - θ̄_j) + γ(w_j - x) = 0 and x = Σ q_j w_j.
    matrix = (lam + gamma) * eye - gamma * np.tile(f.q, (num, 1))
    w = np.linalg.solve(matrix, lam * means)
    slopes = np.einsum("dij,dj->di", f.hessian, device) - f.linear
    return slopes + lam * (device - w[f.team])


@pytest.mark.parametrize("weights", ["uniform", "samples"])
def test_the_expected_step_is_the_gradient_of_the_objective(weights, monkeypatch):
    f, place = quadratics(weights)
    device = np.random.default_rng(22).normal(size=f.linear.shape)
    step = expected_step(place, NUMBERS, device, monkeypatch)
    slopes = objective_slopes(f, place, 0.8, 0.5, device)
    np.testing.assert_allclose(step, -0.1 * slopes, atol=1e-10)
    assert np.abs(step).max() > 0.1


@pytest.mark.parametrize("weights", ["uniform", "samples"])
def test_the_expected_step_is_zero_at_permfls_optimum(weights, monkeypatch):
    """Closed form; also TM and GM there are PerMFL's w and x."""
    f, place = quadratics(weights)
    x, w, theta = oracles.optimum(f, 0.8, 0.5)
    step = expected_step(place, NUMBERS, theta, monkeypatch)
    np.testing.assert_allclose(step, 0, atol=1e-12)
    step = expected_step(place, NUMBERS | {"team_prox": 0.6}, theta, monkeypatch)
    assert np.abs(step).max() > 1e-3
    means = np.stack([mean(place.weight, theta, f.members(i)) for i in range(3)])
    share = HParams(**NUMBERS).server_share
    np.testing.assert_allclose((1 - share) * means + share * x, w, rtol=1e-12)
    np.testing.assert_allclose(f.q @ means, x, rtol=1e-12)


def mean_distance(place, theta, lr, rounds):
    """Mean of |θ-θ*|² over the second half of the rounds."""
    hparams = NUMBERS | {"device_lr": lr}
    algorithm = place.algorithm("al2gd", team_steps=5, device_steps=10)
    state = runner.start(algorithm, place.params, place.federation)
    key, numbers = jax.random.key(SEED), traced("al2gd", hparams)
    run = runner.run(algorithm, key, numbers, state, place.federation, rounds)
    squares = [np.sum((np.asarray(s.device) - theta) ** 2) for s, _ in run]
    return np.mean(squares[rounds // 2 :])


def test_the_distance_that_is_left_falls_with_the_step_size():
    """In proportion to η, so 10 times for a tenth."""
    f, place = quadratics("samples")
    _, _, theta = oracles.optimum(f, 0.8, 0.5)
    coarse = mean_distance(place, theta, 0.05, 400)
    fine = mean_distance(place, theta, 0.005, 800)
    assert 4 < coarse / fine < 25
    assert fine < 0.02 * np.sum(theta**2)


def test_one_team_is_l2gd():
    """τ at which either coin goes as far: L2GD with p = p₀ + (1-p₀)p_j, whatever γ."""
    f = oracles.random_quadratics(23, (5,), 3)
    place = of_quadratics(f)
    eta, lam, gamma, p0, pj = 0.1, 0.8, 0.2, 0.25, 0.2
    p, alpha = p0 + (1 - p0) * pj, gamma / (gamma + lam)
    tau = (p0 / p - alpha) / (1 - alpha)
    theta = np.tile(place.start, (5, 1))
    tossed = []
    for t, number in itertools.product(range(3), range(10)):
        everyone, (team,) = coins(t, number, 1)
        tossed.append(everyone < p0 or team < pj)
        if tossed[-1]:
            theta = theta - eta * lam / p * (theta - theta.mean(axis=0))
        else:
            slopes = np.einsum("dij,dj->di", f.hessian, theta) - f.linear
            theta = theta - eta / (1 - p) * slopes
    assert 0 < sum(tossed) < 30
    numbers = dict(zip(NUMBERS, (eta, lam, gamma, p0, pj, tau), strict=True))
    state = place.run("al2gd", numbers, 3, **STEPS)
    np.testing.assert_allclose(state.device, theta, rtol=1e-10)
    np.testing.assert_allclose(state.server, theta.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(state.team[0], state.server, rtol=1e-12)


@pytest.mark.parametrize("name", ["draws", "samples_draws_batches"])
def test_absentees_stand_still(name):
    place = world(name)
    before = place.run("al2gd", NUMBERS, 2, **STEPS)
    after = place.run("al2gd", NUMBERS, 3, **STEPS)
    acted = np.isin(np.arange(len(place.team)), place.acting(2))
    rows = [vectors(s.device, len(acted)) for s in (before, after)]
    np.testing.assert_array_equal((rows[0] == rows[1]).all(axis=1), ~acted)
    there = np.isin(np.arange(len(place.team_weight)), place.teams(2))
    rows = [vectors(s.team, len(there)) for s in (before, after)]
    np.testing.assert_array_equal((rows[0] == rows[1]).all(axis=1), ~there)
    assert 0 < acted.sum() < len(acted)


def test_coins_fall_as_often_as_they_should_and_each_for_itself():
    """Within 4.5 deviations: false by chance once in 10^5."""
    numbers, count = traced("al2gd", NUMBERS), 20000
    toss = jax.jit(
        jax.vmap(
            lambda t, n: al2gd.toss(jax.random.key(3), t, n, 3, numbers),
            in_axes=(0, 0),
        )
    )
    number = jnp.arange(count, dtype=jnp.int32)
    fallen = toss(number // 100, number % 100)
    columns = np.column_stack([fallen.everyone, fallen.team]).astype(float)
    for column, p in zip(columns.T, (0.25, 0.4, 0.4, 0.4), strict=True):
        assert abs(column.mean() - p) < 4.5 * np.sqrt(p * (1 - p) / count)
    linked = np.corrcoef(columns.T)[np.triu_indices(4, 1)]
    assert np.abs(linked).max() < 4.5 / np.sqrt(count)


def test_traffic_follows_the_coins():
    sampler = Sampler((2, 3), devices_per_round=2)
    sent = ALGORITHMS["al2gd"].traffic(
        HParams(**NUMBERS), Schedule(team_steps=4, device_steps=5), sampler
    )
    device, team = 20 * 4 * (0.25 + 0.75 * 0.4), 20 * 2 * 0.25
    np.testing.assert_allclose(sent, (device, device, team, team))


def test_advice_names_the_meeting_that_goes_past_its_mean():
    """From SPEC C.5's bounds on η: 0.25 / (λ(α + τ(1-α))), 0.3 / (λ(1-τ)(1-α))."""
    alpha = 0.5 / 1.3
    all_bound = 0.25 / (0.8 * (alpha + 0.3 * (1 - alpha)))
    team_bound = 0.75 * 0.4 / (0.8 * 0.7 * (1 - alpha))
    assert all_bound < team_bound
    for lr, said in (
        (0.999 * all_bound, []),
        (1.001 * all_bound, ["all meet"]),
        (1.001 * team_bound, ["all meet", "a team meets"]),
    ):
        texts = ALGORITHMS["al2gd"].advise(
            HParams(**NUMBERS | {"device_lr": lr}), Schedule(), 10, None, 0.0
        )
        assert [who in text for who, text in zip(said, texts, strict=True)] == [
            True for _ in said
        ]
        assert all(text.endswith(".") and ". " not in text for text in texts)


def test_it_cannot_do_without_personal_models():
    with pytest.raises(
        InputError, match=r"^--keep_personal=false leaves --algorithm=al2gd nothing: .*"
    ):
        world("uniform").algorithm("al2gd", keep_personal=False)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("device_lr", 0.0, "above 0"),
        ("device_prox", -1.0, "at least 0"),
        ("team_prox", -1.0, "at least 0"),
        ("all_probability", 0.0, "above 0 and below 1"),
        ("all_probability", 1.0, "above 0 and below 1"),
        ("team_probability", 1.5, "above 0 and below 1"),
        ("team_share", -0.5, "at least 0 and at most 1"),
        ("team_share", 1.5, "at least 0 and at most 1"),
    ],
)
def test_numbers_are_checked(name, value, allowed):
    with pytest.raises(InputError) as caught:
        HParams(**{name: value})
    assert str(caught.value) == f"--hparam={name} must be {allowed}, got {value:g}."
