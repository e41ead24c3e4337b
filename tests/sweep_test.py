"""Every member of a sweep is the run that it stands for."""

import itertools
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import thoroughly
from federations import (
    classes_federation,
    gains,
    mclr_loss,
    mclr_params,
    quadratic_federation,
    quadratic_loss,
)

from permfl_jax import runner, sweep
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.algorithms.permfl import permfl
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

ROOT = pathlib.Path(__file__).parents[1]
SEEDS = (3, 8)
LRS = (0.05, 0.2, 0.4)
COUNTS, TEAMS = [4, 7, 6, 9, 5], [0, 0, 1, 1, 1]
ROUNDS = 4
SETTINGS = {
    "full": ({"batch_size": None}, {}),
    "batches": ({"batch_size": 3}, {}),
    "few": (
        {"batch_size": 3, "aggregate": "stale_seen"},
        {"teams_per_round": 1, "devices_per_round": 2},
    ),
    "not_kept": ({"batch_size": 3, "keep_personal": False}, {"devices_per_round": 2}),
}


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def built(name, setting, counts=COUNTS, teams=TEAMS):
    schedule, sampler = SETTINGS[setting]
    federation, _ = classes_federation(0, counts, teams)
    method = ALGORITHMS[name]
    algorithm = method.factory(
        mclr_loss,
        Schedule(team_steps=2, device_steps=3, **schedule),
        Sampler.of(federation, **sampler),
    )
    hparams = [method.hparams(device_lr=lr).traced() for lr in LRS]
    return algorithm, hparams, federation


def built_or_skipped(name, setting):
    """Skips a method that refuses to be without its models, if it says so rightly."""
    if setting != "not_kept":
        return built(name, setting)
    try:
        return built(name, setting)
    except InputError as refusal:
        said = str(refusal)
    sentence = rf"--keep_personal=false leaves --algorithm={name} nothing: [^.]+\."
    assert re.fullmatch(sentence, said)
    pytest.skip(f"{name} has nothing without its personal models, and says so")


def run_many(
    algorithm,
    hparams,
    federation,
    rounds=ROUNDS,
    rounds_per_call=2,
    params_of=mclr_params,
):
    """All (state, metrics, ended) with the members' own states."""
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    params = stacked([params_of(seed) for seed in SEEDS])
    start = sweep.start_many(algorithm, params, len(hparams), federation)
    for state, metrics, ended in sweep.run_many(
        algorithm, keys, stacked(hparams), start, federation, rounds, rounds_per_call
    ):
        states = {
            (r, h): sweep.member_of(state, r, h, federation)
            for r in range(len(SEEDS))
            for h in range(len(hparams))
        }
        yield states, metrics, ended


def run_alone(
    algorithm, hparams, federation, seed, rounds=ROUNDS, params_of=mclr_params
):
    start = runner.start(algorithm, params_of(seed), federation)
    key = jax.random.key(seed)
    return list(runner.run(algorithm, key, hparams, start, federation, rounds, 2))


# All methods with all and with few devices; by --thorough what those stand for.
MEMBERS = thoroughly.cases(
    itertools.product(ALGORITHMS, SETTINGS),
    lambda it: it[1] in ("full", "few") or it[0] in ("permfl", "ditto", "fedavg"),
)


@pytest.mark.parametrize(("name", "setting"), MEMBERS)
def test_a_member_is_the_run_alone(name, setting):
    """To rounding: products of many models are added in another order."""
    algorithm, hparams, federation = built_or_skipped(name, setting)
    *_, (states, metrics, ended) = run_many(algorithm, hparams, federation)
    assert not ended
    servers = []
    for (r, h), state in states.items():
        *_, (alone, alone_metrics) = run_alone(
            algorithm, hparams[h], federation, SEEDS[r]
        )
        assert jax.tree.structure(state) == jax.tree.structure(alone)
        for ours, theirs in zip(
            jax.tree.leaves(state), jax.tree.leaves(alone), strict=True
        ):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
        for quantity, values in alone_metrics.items():
            np.testing.assert_allclose(metrics[quantity][r, h], values, rtol=1e-12)
        tiers = (state.server, state.device, state.extra)
        tier = next(tier for tier in tiers if tier is not None)
        servers.append(np.concatenate([x.ravel() for x in jax.tree.leaves(tier)]))
    assert len({tuple(server) for server in servers}) == len(SEEDS) * len(LRS)


def test_who_took_part_and_the_counts_are_bitwise_those_of_the_run_alone():
    algorithm, hparams, federation = built("permfl", "few")
    *_, (states, _, _) = run_many(algorithm, hparams, federation)
    for (r, h), state in states.items():
        *_, (alone, _) = run_alone(algorithm, hparams[h], federation, SEEDS[r])
        np.testing.assert_array_equal(state.cursor, alone.cursor)
        np.testing.assert_array_equal(state.extra, alone.extra)
        assert int(state.round) == int(alone.round) == ROUNDS


def quadratics(alphas):
    """Settings on curvatures up to 3: a step of 3 diverges after some rounds."""
    federation = quadratic_federation(oracles.random_quadratics(0, (2, 1), 3))
    schedule = Schedule(team_steps=2, device_steps=3, batch_size=None)
    algorithm = permfl(quadratic_loss, schedule, Sampler((2, 1)))
    return algorithm, [gains(a, 0.5, 0.5, 0.1, 0.5) for a in alphas], federation


def ones(seed):
    return jnp.full(3, seed, float)


@pytest.mark.parametrize("rounds_per_call", [1, 20])
def test_a_member_that_diverges_leaves_the_others_alone(rounds_per_call):
    algorithm, (calm, wild), federation = quadratics((0.1, 3.0))
    calls = list(
        run_many(algorithm, [calm, wild], federation, 60, rounds_per_call, ones)
    )
    assert len(calls) == 60 / rounds_per_call
    assert calls[0][2] == {}
    states, _, ended = calls[-1]
    assert ended.keys() == {(0, 1), (1, 1)}
    for r, seed in enumerate(SEEDS):
        with pytest.raises(DivergenceError) as alone:
            run_alone(algorithm, wild, federation, seed, 60, ones)
        assert ended[r, 1] == str(alone.value)
        *_, (state, _) = run_alone(algorithm, calm, federation, seed, 60, ones)
        for ours, theirs in zip(
            jax.tree.leaves(states[r, 0]), jax.tree.leaves(state), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_sweep_ends_when_all_have_diverged():
    algorithm, numbers, federation = quadratics((3.0, 9.0))
    calls = list(run_many(algorithm, numbers, federation, 60, 1, ones))
    assert len(calls) < 60
    assert [len(ended) == 4 for *_, ended in calls] == [False] * (len(calls) - 1) + [
        True
    ]


def test_rounds_per_call_must_divide():
    with pytest.raises(InputError, match="--rounds_per_call=2"):
        list(run_many(*built("permfl", "full"), 3, 2))


ON_CHIPS = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import sweep_test
from permfl_jax import placement

algorithm, hparams, federation = sweep_test.built(
    "permfl", "SETTING", [4, 7, 6, 9, 5, 8], [0, 0, 0, 1, 1, 1]
)
ends = []
for mesh in (None, placement.choose_mesh(federation)):
    placed = placement.place(federation, mesh)
    *_, (states, _, ended) = sweep_test.run_many(algorithm, hparams, placed)
    assert not ended
    ends.append(states)
assert states[0, 0].cursor.sharding.num_devices == 2
for ours, theirs in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
print("alike")
"""


@pytest.mark.parametrize("setting", ["batches", "few", "not_kept"])
def test_several_chips_give_what_one_gives(setting):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", ON_CHIPS.replace("SETTING", setting)],
        env=os.environ | environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "alike\n", done.stderr
