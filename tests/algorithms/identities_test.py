"""Methods that are special cases of each other: the identities of SPEC C.12.

The numbers of the tests are those of the list there. "The core" is PerMFL on its five
numbers (α, λ, a, b, g). Identity 6 (AL2GD) and those of DemLearn and IFCA are beside
their methods; further cases of 7 and 9 are in `permfl_test.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import oracles_baselines
import pytest
from federations import gains
from worlds import SEED, of_quadratics, run_from, unequal_teams, vectors, world

from permfl_jax import runner
from permfl_jax.algorithms.permfl import HParams
from permfl_jax.participation import Sampler

STEPS = {"team_steps": 2, "device_steps": 3}
AVERAGING = {"lam": 0.0, "a": 1.0, "b": 0.0, "g": 1.0}
RATE = {"device_lr": 0.1}
WITHOUT_TEAMS = {
    "fedavg": RATE,
    "fedprox": RATE | {"device_prox": 0.7},
    "finetune": RATE,
    "perfedavg": RATE | {"adapt_lr": 0.2},
    "pfedme": {"device_lr": 0.1, "device_prox": 2.0, "local_lr": 0.2, "server_lr": 0.7},
    "ditto": RATE | {"device_prox": 0.5},
    "scaffold": RATE,
    "pooled": RATE,
}


def core(place, numbers, rounds, **schedule):
    """PerMFL from its five numbers."""
    algorithm = place.algorithm("permfl", **schedule)
    state = runner.start(algorithm, place.params, place.federation)
    key = jax.random.key(SEED)
    run = runner.run(algorithm, key, numbers, state, place.federation, rounds)
    *_, (end, _) = run
    return end


def regrouped(place, team):
    """The same devices in other teams, everybody acting."""
    sizes = tuple(np.bincount(team).tolist())
    federation = dataclasses.replace(
        place.federation, team=jnp.asarray(team, jnp.int32)
    )
    return dataclasses.replace(
        place, federation=federation, team=team, sampler=Sampler(sizes)
    )


def one_team(place):
    return regrouped(place, np.zeros(len(place.team), int))


def one_device_teams(place):
    return regrouped(place, np.arange(len(place.team)))


def assert_same(one, other, tolerance=1e-12):
    """Of two models or two stacks of models."""
    np.testing.assert_allclose(
        vectors(one, 1), vectors(other, 1), rtol=tolerance, atol=tolerance
    )


@functools.cache
def pair():
    """Two teams of three quadratics, as far from each other as chance has it."""
    return of_quadratics(oracles.random_quadratics(1, (3, 3), 3, low=0.5, high=2))


@pytest.mark.parametrize("name", ["samples_draws", "batches"])
def test_1_hsgd_is_the_core_with_whole_moves(name):
    place = world(name)
    hsgd = place.run("hsgd", RATE, 3, **STEPS)
    same = core(place, gains(0.1, **AVERAGING), 3, **STEPS)
    assert_same(hsgd.server, same.server)
    assert_same(hsgd.team, same.team)


def test_1_permfl_nears_hsgd_as_its_pulls_vanish():
    """λ = ε, γ = ε², η = 1/ε, β = 1/ε²: 1.5e-9 away at ε = 1e-7, and in step with ε."""
    place, rate = pair(), {"device_lr": 5e-4}
    hsgd, fedavg = (place.run(n, rate, 2, **STEPS).server for n in ("hsgd", "fedavg"))
    assert np.abs(hsgd - fedavg).max() > 1e-7  # what is close is close to one of them
    away = {}
    for eps in (1e-4, 1e-5, 1e-7):
        numbers = HParams(
            **rate,
            device_prox=eps,
            team_prox=eps**2,
            team_lr=1 / eps,
            server_lr=1 / eps**2,
        ).traced()
        away[eps] = np.abs(core(place, numbers, 2, **STEPS).server - hsgd).max()
    assert away[1e-7] <= 1.5e-9
    assert away[1e-4] == pytest.approx(10 * away[1e-5], rel=1e-3)


@pytest.mark.parametrize("name", ["samples", "batches"])
def test_2_fedavg_is_the_core_with_one_team_and_one_exchange(name):
    place = one_team(world(name))
    whole = {"team_steps": 1, "device_steps": 6}
    same = core(place, gains(0.1, **AVERAGING), 3, **whole)
    assert_same(place.run("fedavg", RATE, 3, **whole).server, same.server)


@pytest.mark.parametrize("name", ["samples", "batches"])
def test_2_fedavg_is_the_core_with_teams_of_one(name):
    """K·L steps either way, whatever the teams of FedAvg are."""
    place = world(name)
    same = core(one_device_teams(place), gains(0.1, **AVERAGING), 3, **STEPS)
    assert_same(place.run("fedavg", RATE, 3, **STEPS).server, same.server)


def test_2_fedavg_is_hsgd_that_meets_once():
    """By samples, also with unequal teams; two meetings are something else."""
    place = world("samples")
    once = {"team_steps": 1, "device_steps": 3}
    fedavg, hsgd = (place.run(name, RATE, 3, **once) for name in ("fedavg", "hsgd"))
    assert_same(fedavg.server, hsgd.server)
    fedavg, hsgd = (place.run(name, RATE, 3, **STEPS) for name in ("fedavg", "hsgd"))
    assert np.abs(fedavg.server - hsgd.server).max() > 1e-3


@pytest.mark.parametrize("name", ["samples", "batches"])
def test_3_fedprox_is_the_core_with_a_pull_and_whole_moves(name):
    place = one_team(world(name))
    whole = {"team_steps": 1, "device_steps": 6}
    numbers = gains(0.1, **AVERAGING | {"lam": 0.7})
    same = core(place, numbers, 3, **whole)
    fedprox = place.run("fedprox", RATE | {"device_prox": 0.7}, 3, **whole)
    assert_same(fedprox.server, same.server)


@pytest.mark.parametrize("name", ["uniform", "samples"])
def test_4_pfedme_is_the_core_with_teams_of_one(name):
    place = world(name)
    same = core(one_device_teams(place), gains(0.1, 2.0, 0.4, 0.0, 0.7), 3, **STEPS)
    pfedme = place.run("pfedme", WITHOUT_TEAMS["pfedme"], 3, **STEPS)
    assert_same(pfedme.server, same.server)
    np.testing.assert_allclose(pfedme.device, same.device, rtol=1e-12)


@pytest.mark.parametrize("team", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0] * 6])
def test_5_pfedme_with_one_local_round_is_the_core_with_any_equal_teams(team):
    """K = 1, and b does not matter."""
    once = {"team_steps": 1, "device_steps": 3}
    numbers = gains(0.1, 2.0, 0.4, 0.3, 0.7)
    same = core(regrouped(pair(), np.array(team)), numbers, 3, **once)
    pfedme = pair().run("pfedme", WITHOUT_TEAMS["pfedme"], 3, **once)
    assert_same(pfedme.server, same.server)
    np.testing.assert_allclose(pfedme.device, same.device, rtol=1e-12)


def test_7_split_pulls_are_rescaled_pulls_on_mini_batches_too():
    """λ' = λ_dev, γ' = γ/s, η' = ηs, β' = βs with s = λ_team / λ_dev."""
    place, s = world("batches"), 0.5 / 4.0
    split = HParams(
        device_lr=0.1,
        team_lr=0.3,
        server_lr=0.6,
        device_prox=0.5,
        team_prox=1.5,
        device_pull=4.0,
    )
    rescaled = HParams(
        device_lr=0.1,
        team_lr=0.3 * s,
        server_lr=0.6 * s,
        device_prox=4.0,
        team_prox=1.5 / s,
    )
    ends = [core(place, numbers.traced(), 3, **STEPS) for numbers in (split, rescaled)]
    for tier in ("server", "team", "device"):
        assert_same(getattr(ends[0], tier), getattr(ends[1], tier))


def test_8_ditto_without_a_pull_ends_at_the_local_optima():
    numbers = {"device_lr": 0.1, "personal_lr": 0.4, "device_prox": 0.0}
    f = oracles.random_quadratics(1, (3, 3), 3, low=0.5, high=2)
    state = pair().run("ditto", numbers, 40, **STEPS)
    centre = np.linalg.solve(f.hessian, f.linear[..., None])[..., 0]
    np.testing.assert_allclose(state.device, centre, rtol=1e-8)


@pytest.mark.parametrize("name", ["uniform", "samples_draws_batches"])
def test_8_ditto_without_a_pull_is_local_training(name):
    """On the same mini-batches; whoever acts once is drawn anew when K > 1."""
    place = world(name)
    whole = {"team_steps": 1, "device_steps": 6}
    numbers = {"device_lr": 0.3, "personal_lr": 0.1, "device_prox": 0.0}
    ditto = place.run("ditto", numbers, 3, **whole)
    alone = place.run("local", RATE, 3, **whole)
    assert_same(ditto.device, alone.device)


def test_8_ditto_with_an_endless_pull_ends_at_the_pooled_optimum():
    """FedAvg gets there with one step a round, and v_n is within |∇f_n| / λ of it."""
    numbers = {"device_lr": 0.5, "personal_lr": 5e-11, "device_prox": 1e10}
    f = oracles.random_quadratics(1, (3, 3), 3, low=0.5, high=2)
    state = pair().run("ditto", numbers, 120, team_steps=1, device_steps=1)
    pooled = np.linalg.solve(f.hessian.mean(axis=0), f.linear.mean(axis=0))
    np.testing.assert_allclose(state.server, pooled, atol=1e-8)
    np.testing.assert_allclose(state.device, np.tile(pooled, (6, 1)), atol=1e-8)


@pytest.mark.parametrize("zero", ["device_prox", "local_lr", "server_lr"])
def test_9_pfedme_without_a_link_freezes_its_server(zero):
    place = world("samples_draws")
    numbers = WITHOUT_TEAMS["pfedme"] | {zero: 0.0}
    state = place.run("pfedme", numbers, 3, **STEPS)
    np.testing.assert_allclose(state.server, place.start, rtol=1e-14)
    assert not np.allclose(state.device, place.start)


@pytest.mark.parametrize("name", WITHOUT_TEAMS)
def test_9_methods_without_teams_are_blind_to_teams(name):
    place = world("samples")
    ends = [
        where.run(name, WITHOUT_TEAMS[name], 2, **STEPS)
        for where in (place, one_team(place))
    ]
    assert_same(ends[0].server, ends[1].server)
    jax.tree.map(assert_same, ends[0].device, ends[1].device)


def test_9_one_meeting_a_round_is_blind_to_equal_teams():
    """h-SGD with K = 1; with K = 2 it is not blind."""
    f = oracles.random_quadratics(1, (3, 3), 3, low=0.5, high=2)
    order = [0, 2, 4, 1, 3, 5]
    others = of_quadratics(
        oracles.Quadratics(f.hessian[order], f.linear[order], f.team, f.p, f.q)
    )
    for k, same in ((1, True), (2, False)):
        ends = [
            place.run("hsgd", RATE, 3, team_steps=k, device_steps=3).server
            for place in (pair(), others)
        ]
        assert np.allclose(*ends, rtol=1e-12) == same


@pytest.mark.parametrize("name", [*WITHOUT_TEAMS, "hsgd"])
def test_9_equal_hessians_have_the_mean_centre_as_fixed_point(name):
    """For all loops, 3 steps or 1: nobody's step size biases it."""
    f = oracles.random_quadratics(2, (3, 3), 3, low=0.5, high=2)
    f.hessian[:] = f.hessian[0]
    centre = np.linalg.solve(f.hessian[0], f.linear.mean(axis=0))
    place = dataclasses.replace(of_quadratics(f), params=jnp.asarray(centre))
    state = place.run(name, WITHOUT_TEAMS.get(name, RATE), 2, **STEPS)
    np.testing.assert_allclose(state.server, centre, rtol=1e-12)


@pytest.mark.parametrize("name", ["samples_draws", "samples_draws_batches"])
def test_10_scaffold_without_controls_is_fedavg(name):
    """Controls set to 0 before every round."""
    place = world(name)
    algorithm = place.algorithm("scaffold", **STEPS)
    state = runner.start(algorithm, place.params, place.federation)
    for _ in range(3):
        state = run_from(state, algorithm, "scaffold", RATE, place.federation, 1)
        moved = max(abs(x).max() for x in jax.tree.leaves(state.extra))
        assert moved > 1e-3
        state = state._replace(extra=jax.tree.map(jnp.zeros_like, state.extra))
    assert_same(state.server, place.run("fedavg", RATE, 3, **STEPS).server)


def test_10_scaffold_among_equals_is_fedavg():
    """c_n = c when all devices hold the same."""
    f = oracles.random_quadratics(2, (3, 3), 3, low=0.5, high=2)
    f.hessian[:], f.linear[:] = f.hessian[0], f.linear[0]
    place = of_quadratics(f)
    ends = [place.run(name, RATE, 4, **STEPS) for name in ("scaffold", "fedavg")]
    assert_same(ends[0].server, ends[1].server)
    assert np.abs(ends[0].extra.server).max() > 1e-2


def test_10_perfedavg_that_does_not_adapt_is_fedavg():
    place = world("samples_draws")
    numbers = RATE | {"adapt_lr": 0.0}
    state = place.run("perfedavg", numbers, 3, **STEPS)
    assert_same(state.server, place.run("fedavg", RATE, 3, **STEPS).server)
    made = place.personalized("perfedavg", numbers, state, **STEPS)
    np.testing.assert_array_equal(made, np.tile(state.server, (8, 1)))


def test_10_perfedavg_that_does_not_adapt_is_fedavg_on_every_second_batch():
    place = world("batches")
    odd = dataclasses.replace(
        place, gradient=lambda n, step, theta: place.gradient(n, 2 * step + 1, theta)
    )
    x, _ = oracles_baselines.fedavg_loop(
        odd.gradient, odd.start, alpha=0.1, rounds=3, steps=6, **odd.flat
    )
    state = place.run("perfedavg", RATE | {"adapt_lr": 0.0}, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], x, rtol=1e-10)


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "hsgd"])
def test_one_device_has_nobody_to_average_with(name):
    """A federation of one: pooled training, and so on one step of descent."""
    f = oracles.random_quadratics(3, (1,), 3, low=0.5, high=2)
    place = of_quadratics(f)
    centre = np.linalg.solve(f.hessian[0], f.linear[0])
    left = np.linalg.matrix_power(np.eye(3) - 0.1 * f.hessian[0], 18)
    state = place.run(name, RATE, 3, **STEPS)
    expected = centre + left @ (place.start - centre)
    np.testing.assert_allclose(state.server, expected, rtol=1e-12)


@pytest.mark.parametrize("name", [*WITHOUT_TEAMS, "hsgd"])
def test_absentees_are_as_if_they_never_existed(name):
    """The first round among those that were drawn."""
    place, f = world("draws"), unequal_teams()
    acting = place.acting(0)
    assert len(acting) < len(f.team)
    _, team = np.unique(f.team[acting], return_inverse=True)
    alone = of_quadratics(
        oracles.Quadratics(f.hessian[acting], f.linear[acting], team, f.p, f.q)
    )
    once = {"team_steps": 1, "device_steps": 6}  # drawn once, h-SGD too
    numbers = WITHOUT_TEAMS.get(name, RATE)
    some = place.run(name, numbers, 1, **once)
    assert_same(some.server, alone.run(name, numbers, 1, **once).server)
