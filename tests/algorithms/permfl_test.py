"""Algorithm 1 against closed forms, affine maps, NumPy loops and symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from federations import (
    classes_federation,
    gains,
    mclr_loss,
    mclr_params,
    quadratic_federation,
    quadratic_loss,
    run_permfl,
)
from worlds import minibatch_gradient, reference_draws

from permfl_jax import keys
from permfl_jax.algorithms.permfl import HParams
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler

NUMBERS = {"alpha": 0.1, "lam": 0.7, "a": 0.2, "b": 0.3, "g": 0.8}
LAYOUTS = [(3, 3), (1, 2, 5), (4,), (1, 1, 1)]


def run_quadratic(f, numbers, rounds, start=None, **options):
    start = np.zeros(f.linear.shape[1]) if start is None else start
    return run_permfl(
        quadratic_loss,
        quadratic_federation(f),
        jnp.asarray(start),
        gains(**numbers),
        rounds,
        **options,
    )


def quadratic_gradient(f):
    return lambda j, step, theta: f.hessian[j] @ theta - f.linear[j]


@pytest.mark.parametrize("sizes", LAYOUTS)
@pytest.mark.parametrize(("k", "ell"), [(1, 1), (3, 4)])
def test_one_round_is_the_affine_map(sizes, k, ell):
    f = oracles.random_quadratics(1, sizes, 4)
    matrix, vector = oracles.round_map(f, **NUMBERS, team_steps=k, device_steps=ell)
    start = np.arange(4.0)
    x = start
    for _ in range(5):
        x = matrix @ x + vector
    state = run_quadratic(f, NUMBERS, 5, start, team_steps=k, device_steps=ell)
    np.testing.assert_allclose(state.server, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", LAYOUTS)
def test_every_tier_equals_the_plain_loop(sizes):
    f = oracles.random_quadratics(2, sizes, 3)
    start = np.ones(3)
    x, w, theta, _ = oracles.permfl_loop(
        quadratic_gradient(f),
        start,
        f.team,
        **NUMBERS,
        rounds=3,
        team_steps=4,
        device_steps=5,
    )
    state = run_quadratic(f, NUMBERS, 3, start, team_steps=4, device_steps=5)
    np.testing.assert_allclose(state.server, x, rtol=1e-10)
    np.testing.assert_allclose(state.team, w, rtol=1e-10)
    np.testing.assert_allclose(state.device, theta, rtol=1e-10)


def test_long_loops_reach_the_closed_form_optimum():
    f = oracles.random_quadratics(3, (2, 3), 3, low=0.5, high=2)
    lam, gamma = 1.5, 2.0
    hparams = HParams(
        device_lr=0.25, team_lr=0.25, server_lr=0.5, device_prox=lam, team_prox=gamma
    )
    numbers = dict(zip(NUMBERS, hparams.traced(), strict=True))
    state = run_quadratic(f, numbers, 150, team_steps=60, device_steps=60)
    x, w, theta = oracles.optimum(f, lam, gamma)
    np.testing.assert_allclose(state.server, x, atol=1e-10)
    np.testing.assert_allclose(state.team, w, atol=1e-10)
    np.testing.assert_allclose(state.device, theta, atol=1e-10)
    # SPEC A.5, invariant 1.
    np.testing.assert_allclose(np.mean(state.team, axis=0), x, atol=1e-10)
    for i, row in enumerate(np.asarray(state.team)):
        mean = np.asarray(state.device)[f.team == i].mean(axis=0)
        np.testing.assert_allclose(lam * (row - mean), gamma * (x - row), atol=1e-9)


def test_measured_contraction_is_the_spectral_radius():
    f = oracles.random_quadratics(4, (3, 3), 4)
    loops = {"team_steps": 3, "device_steps": 4}
    matrix, vector = oracles.round_map(f, **NUMBERS, **loops)
    radius = max(abs(np.linalg.eigvals(matrix)))
    fixed = np.linalg.solve(np.eye(4) - matrix, vector)
    errors = [
        np.linalg.norm(run_quadratic(f, NUMBERS, t, np.ones(4), **loops).server - fixed)
        for t in (40, 60)
    ]
    assert (errors[1] / errors[0]) ** (1 / 20) == pytest.approx(radius, rel=0.01)


def test_weights_by_sample_count_equal_the_weighted_loop():
    counts, teams = [1, 4, 2, 3, 6], [0, 0, 1, 1, 1]
    federation, devices = classes_federation(5, counts, teams)
    params = mclr_params(6)
    p = np.array(counts, float)
    q = np.array([5.0, 11.0])
    x, w, theta, _ = oracles.permfl_loop(
        full_batch_gradient(devices),
        flat(params),
        np.array(teams),
        **NUMBERS,
        rounds=2,
        team_steps=2,
        device_steps=3,
        p=p,
        q=q,
    )
    state = run_permfl(
        mclr_loss,
        federation,
        params,
        gains(**NUMBERS),
        2,
        team_steps=2,
        device_steps=3,
        weights="samples",
    )
    assert_tiers(state, x, w, theta)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("counts", "teams"),
    [
        ([3, 3, 3, 3], [0, 0, 1, 1]),
        ([1, 40, 7, 2, 600, 5], [0, 1, 1, 2, 2, 2]),
    ],
)
def test_full_batch_equals_the_loop_for_any_sizes(counts, teams, dtype):
    federation, devices = classes_federation(7, counts, teams, dtype=dtype)
    params = mclr_params(8, dtype=dtype)
    x, w, theta, _ = oracles.permfl_loop(
        full_batch_gradient(devices),
        flat(params).astype(np.float64),
        np.array(teams),
        **NUMBERS,
        rounds=2,
        team_steps=2,
        device_steps=3,
    )
    state = run_permfl(
        mclr_loss,
        federation,
        params,
        gains(**NUMBERS),
        2,
        team_steps=2,
        device_steps=3,
    )
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    assert_tiers(state, x, w, theta, rtol=tolerance)


@pytest.mark.parametrize("batching", ["cyclic", "shuffle"])
def test_minibatches_equal_the_loop_that_draws_the_same(batching):
    # Sizes below, at and above the batch; passes that end in the middle of a call.
    counts, teams, batch = [1, 4, 5, 11], ["a", "b", "b", "b"], 4
    federation, devices = classes_federation(9, counts, teams)
    params = mclr_params(10)
    stream = keys.batch_key(jax.random.key(11))
    gradient = minibatch_gradient(devices, batching, batch, stream)
    x, w, theta, steps = oracles.permfl_loop(
        gradient,
        flat(params),
        np.array([0, 1, 1, 1]),
        **NUMBERS,
        rounds=3,
        team_steps=2,
        device_steps=5,
    )
    state = run_permfl(
        mclr_loss,
        federation,
        params,
        gains(**NUMBERS),
        3,
        seed=11,
        team_steps=2,
        device_steps=5,
        batch_size=batch,
        batching=batching,
    )
    assert_tiers(state, x, w, theta)
    np.testing.assert_array_equal(state.cursor, steps)


@pytest.mark.parametrize("aggregate", ["participants", "stale", "stale_seen"])
@pytest.mark.parametrize(
    ("teams_per_round", "devices_per_round"), [(2, 2), (2, None), (None, 1), (1, 3)]
)
def test_participation_equals_the_loop_that_draws_the_same_sets(
    aggregate, teams_per_round, devices_per_round
):
    sizes, seed = (2, 3, 4), 12
    f = oracles.random_quadratics(13, sizes, 3)
    draw = reference_draws(sizes, seed, teams_per_round, devices_per_round)
    start = np.ones(3)
    x, w, theta, steps = oracles.permfl_loop(
        quadratic_gradient(f),
        start,
        f.team,
        **NUMBERS,
        rounds=4,
        team_steps=2,
        device_steps=2,
        acting_teams=draw[0],
        acting_devices=draw[1],
        aggregate=aggregate,
    )
    state = run_quadratic(
        f,
        NUMBERS,
        4,
        start,
        seed=seed,
        sampler=Sampler(sizes, teams_per_round, devices_per_round),
        team_steps=2,
        device_steps=2,
        aggregate=aggregate,
    )
    np.testing.assert_allclose(state.server, x, rtol=1e-10)
    np.testing.assert_allclose(state.team, w, rtol=1e-10)
    np.testing.assert_allclose(state.device, theta, rtol=1e-10)
    np.testing.assert_array_equal(state.cursor, steps)


def test_equal_hessians_have_the_mean_centre_as_fixed_point():
    """SPEC A.5, invariant 2, also for K = L = 1."""
    f = oracles.random_quadratics(14, (2, 2), 3)
    f.hessian[:] = f.hessian[0]
    centre = np.linalg.solve(f.hessian[0], f.linear.T).T
    mean = centre.reshape(2, 2, 3).mean(axis=(0, 1))
    for k, ell in ((1, 1), (3, 2)):
        state = run_quadratic(f, NUMBERS, 1, mean, team_steps=k, device_steps=ell)
        np.testing.assert_allclose(state.server, mean, rtol=1e-12)


def test_one_team_ignores_the_team_pull_at_the_optimum():
    """SPEC A.5, invariant 3."""
    f = oracles.random_quadratics(15, (4,), 3, low=0.5, high=2)
    ends = []
    for gamma in (0.5, 4.0):
        hparams = HParams(
            device_lr=0.25, team_lr=0.2, server_lr=1 / gamma, team_prox=gamma
        )
        numbers = dict(zip(NUMBERS, hparams.traced(), strict=True))
        ends.append(run_quadratic(f, numbers, 300, team_steps=80, device_steps=80))
    np.testing.assert_allclose(ends[0].server, ends[1].server, atol=1e-8)


def test_single_team_round_is_blind_to_teams_and_to_b():
    """SPEC A.5, invariant 4: K = 1; K = 2 is not blind."""
    f = oracles.random_quadratics(16, (2, 2), 3)
    other = oracles.Quadratics(
        f.hessian[[0, 2, 1, 3]], f.linear[[0, 2, 1, 3]], f.team, f.p, f.q
    )
    far = NUMBERS | {"b": 0.05}

    def server(problem, numbers, k):
        return run_quadratic(problem, numbers, 3, team_steps=k, device_steps=2).server

    np.testing.assert_allclose(server(f, NUMBERS, 1), server(other, NUMBERS, 1))
    np.testing.assert_allclose(server(f, NUMBERS, 1), server(f, far, 1))
    assert not np.allclose(server(f, NUMBERS, 2), server(other, NUMBERS, 2))
    assert not np.allclose(server(f, NUMBERS, 2), server(f, far, 2))


def test_huge_pulls_give_the_pooled_optimum():
    """SPEC A.5, invariant 5, on the fixed point that one round keeps."""
    f = oracles.random_quadratics(17, (2, 3), 3)
    x, _, _ = oracles.optimum(f, 1e8, 1e8)
    weight = f.p * f.q[f.team]
    pooled = np.linalg.solve(
        np.einsum("d,dij->ij", weight, f.hessian), weight @ f.linear
    )
    np.testing.assert_allclose(x, pooled, atol=1e-6)


@pytest.mark.parametrize("zero", ["device_prox", "team_prox", "server_lr"])
def test_a_missing_link_freezes_the_server(zero):
    """SPEC A.5, invariant 6."""
    f = oracles.random_quadratics(18, (2, 2), 3)
    numbers = dict(zip(NUMBERS, HParams(**{zero: 0.0}).traced(), strict=True))
    start = np.array([1.0, -2.0, 0.5])
    state = run_quadratic(f, numbers, 3, start, team_steps=2, device_steps=3)
    np.testing.assert_allclose(state.server, start, rtol=1e-15)
    assert not np.allclose(state.device, start)


def test_translation_moves_every_iterate():
    """SPEC A.5, invariant 7."""
    f = oracles.random_quadratics(19, (2, 3), 3)
    shift = np.array([1.0, -2.0, 3.0])
    moved = oracles.Quadratics(
        f.hessian, f.linear + f.hessian @ shift, f.team, f.p, f.q
    )
    loops = {"team_steps": 2, "device_steps": 3}
    before = run_quadratic(f, NUMBERS, 3, np.zeros(3), **loops)
    after = run_quadratic(moved, NUMBERS, 3, shift, **loops)
    for tier in ("server", "team", "device"):
        np.testing.assert_allclose(
            np.asarray(getattr(after, tier)),
            np.asarray(getattr(before, tier)) + shift,
            rtol=1e-10,
        )


@pytest.mark.parametrize("batch_size", [None, 2])
def test_reordering_devices_reorders_nothing_but_the_output(batch_size):
    """SPEC A.5, invariant 7; with mini-batches too, since draws follow the device."""
    _, devices = classes_federation(20, [3, 5, 2, 4], [0, 0, 1, 1])
    from permfl_jax.federation import from_arrays

    params, numbers = mclr_params(21), gains(**NUMBERS)
    options = {"team_steps": 2, "device_steps": 3, "batch_size": batch_size}
    first = from_arrays(devices, [0, 0, 1, 1])
    second = from_arrays(devices, [1, 1, 0, 0])  # the teams change places
    one = run_permfl(mclr_loss, first, params, numbers, 2, **options)
    two = run_permfl(mclr_loss, second, params, numbers, 2, **options)
    np.testing.assert_allclose(
        one.device["weight"], np.asarray(two.device["weight"])[[2, 3, 0, 1]], rtol=1e-12
    )
    np.testing.assert_allclose(one.server["bias"], two.server["bias"], rtol=1e-12)


def test_separate_device_pull_is_rescaled_permfl():
    """SPEC A.2: split λ is λ' = λ_dev, γ' = γ/s, η' = ηs, β' = βs, s = λ_team/λ_dev."""
    f = oracles.random_quadratics(22, (3, 2), 3)
    given = {"device_lr": 0.01, "team_lr": 0.03, "server_lr": 0.6}
    split = HParams(**given, device_prox=0.5, team_prox=1.5, device_pull=20.0)
    s = 0.5 / 20.0
    same = HParams(
        device_lr=0.01,
        team_lr=0.03 * s,
        server_lr=0.6 * s,
        device_prox=20.0,
        team_prox=1.5 / s,
    )
    assert same == HParams(
        device_lr=0.01, team_lr=7.5e-4, server_lr=0.015, device_prox=20, team_prox=60
    )
    ends = [
        run_quadratic(f, dict(zip(NUMBERS, h.traced(), strict=True)), 3)
        for h in (split, same)
    ]
    for tier in ("server", "team", "device"):
        np.testing.assert_allclose(
            getattr(ends[0], tier), getattr(ends[1], tier), rtol=1e-12
        )


def test_absentees_keep_their_bits_and_are_as_if_they_never_existed():
    f = oracles.random_quadratics(23, (2, 2), 3)
    start = np.ones(3)
    state = run_quadratic(
        f, NUMBERS, 1, start, seed=3, sampler=Sampler((2, 2), 1, None)
    )
    acted = int(np.flatnonzero(np.asarray(state.cursor)[::2])[0])
    rows = f.members(acted)
    alone = oracles.Quadratics(
        f.hessian[rows], f.linear[rows], np.zeros(2, int), f.p[rows], np.ones(1)
    )
    np.testing.assert_allclose(
        state.server, run_quadratic(alone, NUMBERS, 1, start).server, rtol=1e-12
    )
    absent = f.members(1 - acted)
    np.testing.assert_array_equal(np.asarray(state.device)[absent], [start, start])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device_lr", 0.0),
        ("device_lr", -1.0),
        ("team_lr", -0.1),
        ("device_prox", float("nan")),
        ("device_pull", float("inf")),
    ],
)
def test_hyper_parameters_are_checked_where_they_are_born(name, value):
    with pytest.raises(InputError, match=name):
        HParams(**{name: value})


def flat(params):
    return np.concatenate([np.ravel(params["weight"]), np.asarray(params["bias"])])


def unflat(vector, dim=5, num_classes=3):
    return vector[: dim * num_classes].reshape(num_classes, dim), vector[-num_classes:]


def full_batch_gradient(devices):
    def gradient(j, step, theta):
        parts = oracles.mclr_gradient(*unflat(theta), devices[j]["x"], devices[j]["y"])
        return np.concatenate([part.ravel() for part in parts])

    return gradient


def assert_tiers(state, x, w, theta, rtol=1e-10):
    for tier, expected in (
        (state.server, x[None]),
        (state.team, w),
        (state.device, theta),
    ):
        leaves = [np.atleast_2d(tier["bias"]), np.asarray(tier["weight"])]
        got = np.concatenate([leaves[1].reshape(len(expected), -1), leaves[0]], axis=1)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * 1e-1)
