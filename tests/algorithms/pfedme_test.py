"""pFedMe against a plain loop, its round map and the optimum of its objective."""

import dataclasses

import jax
import numpy as np
import oracles
import oracles_baselines
import pytest
from worlds import WORLDS, of_quadratics, vectors, world

from permfl_jax.algorithms.pfedme import HParams
from permfl_jax.errors import InputError

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1, "device_prox": 2.0, "local_lr": 0.2, "server_lr": 0.7}


def loop(place, rounds=3):
    return oracles_baselines.pfedme_loop(
        place.gradient,
        place.start,
        delta=0.1,
        lam=2.0,
        eta=0.2,
        beta=0.7,
        rounds=rounds,
        local_rounds=2,
        inner_steps=3,
        **place.flat,
    )


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    """One mini-batch in each of the K local rounds; absent devices keep θ."""
    place = world(name)
    w, theta, seen = loop(place)
    state = place.run("pfedme", NUMBERS, 3, **STEPS)
    np.testing.assert_allclose(vectors(state.server, 1)[0], w, rtol=1e-10)
    np.testing.assert_allclose(vectors(state.device, len(seen)), theta, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.team is None


def one_device_teams(f, share):
    """The same devices, each a team of its own."""
    count = len(f.team)
    return oracles.Quadratics(
        f.hessian, f.linear, np.arange(count), np.ones(count), share
    )


@pytest.mark.parametrize("name", ["uniform", "samples"])
def test_ends_at_the_fixed_point_of_the_round_map_of_one_device_teams(name):
    """SPEC A.5 with K = R, L = the inner steps, (λ, a, b, g) = (λ, ηλ, 0, β)."""
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    place = of_quadratics(f, [1, 4, 2, 3, 6], name)
    alone = one_device_teams(f, place.weight / place.weight.sum())
    matrix, vector = oracles.round_map(
        alone, 0.1, 2.0, 0.4, 0.0, 0.7, team_steps=2, device_steps=3
    )
    few = place.run("pfedme", NUMBERS, 1, **STEPS)
    np.testing.assert_allclose(few.server, matrix @ place.start + vector, rtol=1e-12)
    many = place.run("pfedme", NUMBERS, 200, **STEPS)
    fixed = oracles_baselines.fixed_point(matrix, vector)
    np.testing.assert_allclose(many.server, fixed, rtol=1e-10)


def test_long_inner_loops_end_at_the_optimum_of_the_envelopes():
    """SPEC A.5, invariant 5: (Σ p_n A_n)⁻¹ Σ p_n d_n, which PerMFL nears as γ grows."""
    f = oracles.random_quadratics(1, (2, 3), 3, low=0.5, high=2)
    lam = 1.5
    share = np.full(5, 0.2)
    pull = lam * np.linalg.inv(f.hessian + lam * np.eye(3))
    w = np.linalg.solve(
        np.mean(pull @ f.hessian, axis=0),
        np.mean(np.einsum("dij,dj->di", pull, f.linear), axis=0),
    )
    theta = np.einsum("dij,dj->di", pull / lam, f.linear + lam * w)
    numbers = {
        "device_lr": 0.4,
        "device_prox": lam,
        "local_lr": 0.5,
        "server_lr": 1.0,
    }
    place = of_quadratics(f)
    state = place.run("pfedme", numbers, 200, team_steps=1, device_steps=40)
    np.testing.assert_allclose(state.server, w, rtol=1e-10)
    np.testing.assert_allclose(state.device, theta, rtol=1e-10)
    permfl, _, _ = oracles.optimum(one_device_teams(f, share), lam, 1e8)
    np.testing.assert_allclose(permfl, w, atol=1e-7)
    pooled = oracles_baselines.pooled_optimum(f, share)
    assert np.abs(w - pooled).max() > 1e-2


@pytest.mark.parametrize("name", ["samples", "samples_draws_batches"])
def test_without_personal_models_the_server_learns_the_same(name):
    place = world(name)
    kept = place.run("pfedme", NUMBERS, 3, **STEPS)
    dropped = place.run("pfedme", NUMBERS, 3, **STEPS, keep_personal=False)
    assert dropped.device is None
    np.testing.assert_allclose(
        vectors(dropped.server, 1), vectors(kept.server, 1), rtol=1e-12
    )


def test_models_made_when_asked_are_those_of_the_next_round():
    """With full batches: θ_n by K local rounds from w."""
    place = world("uniform")
    three = place.run("pfedme", NUMBERS, 3, **STEPS, keep_personal=False)
    made = place.personalized("pfedme", NUMBERS, three, **STEPS, keep_personal=False)
    _, theta, _ = loop(place, rounds=4)
    np.testing.assert_allclose(made, theta, rtol=1e-10)


def test_models_made_when_asked_see_mini_batches_of_their_own():
    place = world("samples_draws_batches")
    state = place.run("pfedme", NUMBERS, 2, **STEPS)
    made = place.personalized("pfedme", NUMBERS, state, **STEPS)
    asked = dataclasses.replace(
        place,
        gradient=place.tuning,
        params=state.server,
        teams=lambda t: [0, 1],
        devices=lambda t, k, i: np.flatnonzero(place.team == i),
    )
    _, theta, _ = loop(asked, rounds=1)
    np.testing.assert_allclose(made, theta, rtol=1e-10)


def test_up_to_date_models_are_not_made_again():
    full, partial = world("uniform"), world("draws")
    assert full.algorithm("pfedme").personalize is None
    assert partial.algorithm("pfedme").personalize is not None
    assert full.algorithm("pfedme", keep_personal=False).personalize is not None


@pytest.mark.parametrize("name", ["draws", "samples_draws_batches"])
def test_absentees_keep_their_bits(name):
    place = world(name)
    state = place.run("pfedme", NUMBERS, 1, **STEPS)
    acted = np.isin(np.arange(len(place.team)), place.acting(0))
    assert 0 < acted.sum() < len(acted)
    np.testing.assert_array_equal(np.asarray(state.cursor) > 0, acted)
    same = vectors(state.device, len(acted)) == vectors(place.params, 1)
    np.testing.assert_array_equal(same.all(axis=1), ~acted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device_lr", 0.0),
        ("device_prox", -1.0),
        ("local_lr", -1.0),
        ("server_lr", float("nan")),
    ],
)
def test_numbers_are_checked(name, value):
    with pytest.raises(InputError, match=f"--hparam={name} must be"):
        HParams(**{name: value})


def test_numbers_are_those_of_the_update():
    numbers = HParams(**NUMBERS).traced()
    np.testing.assert_allclose(jax.tree.leaves(numbers), [0.1, 2.0, 0.4, 0.7])
