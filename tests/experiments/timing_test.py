"""Clocks on known sleeps, and ours on a tiny federation; no speed is asserted."""

import itertools
import time

import jax
import numpy as np
import pytest

from experiments import timing, workloads

TINY = workloads.W1._replace(team_steps=1, device_steps=2).with_devices((2, 2), 70, 5)


@pytest.fixture(scope="module")
def ours():
    return timing.Ours(TINY)


def test_rounds_move_every_tier(ours):
    before = jax.device_get(ours._state)
    ours.one_round()
    assert ours._state.round == before.round + 1
    for tier in ("device", "team", "server"):
        moved = jax.tree.map(
            lambda a, b: not np.array_equal(a, b),
            getattr(before, tier),
            getattr(ours._state, tier),
        )
        assert all(jax.tree.leaves(moved)), tier
    assert (np.asarray(ours._state.cursor) == np.asarray(before.cursor) + 2).all()


def test_all_tiers_are_evaluated(ours):
    row = ours.evaluate()
    assert {"PM/accuracy", "TM/accuracy", "GM/accuracy"} <= row.keys()
    assert not any("train" in name for name in row)


def test_compilation_and_memory_are_told(ours):
    assert ours.compile_seconds > 0
    # The pixels, and a model of 4 bytes a number for each device, team and the server.
    least = 4 * 70 * 784 + 4 * 7850 * (4 + 2 + 1)
    assert least < ours.predicted_bytes < 50 * least


def test_few_devices_act_where_asked():
    few = timing.Ours(TINY._replace(devices_per_round=1))
    few.one_round()
    assert np.asarray(few._state.cursor).sum() == 2 * 2
    assert few.workload.steps_per_round == 4


def test_step_seconds_are_those_of_a_round_over_its_steps(ours, monkeypatch):
    monkeypatch.setattr(timing, "seconds", lambda call: 3.0)
    assert ours.step_seconds() == 3.0 / (4 * 1 * 2)


def test_short_calls_are_repeated_and_averaged(monkeypatch):
    clock = itertools.count(0, 0.125)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = []
    assert timing.seconds(lambda: calls.append(None)) == 0.125
    assert len(calls) == 3  # 0.375 s are over 0.3
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) * 8)
    assert timing.seconds(lambda: calls.append(None)) == 1.0
    assert len(calls) == 4


def test_ratios_are_taken_pair_by_pair_in_turn():
    calls = []
    above, below = iter([8.0, 6.0, 10.0]), iter([4.0, 1.0, 2.0])

    def measure():
        calls.append("measure")
        return next(above)

    def base():
        calls.append("base")
        return next(below)

    assert timing.ratio(measure, base, 3) == timing.Ratio(2, 5, 6)
    assert calls == ["base", "measure"] * 3


def test_the_peak_covers_what_is_in_use():
    timing.forget_peak()
    block = np.ones(2**25)  # 256 MB
    assert timing.peak_bytes() > block.nbytes
