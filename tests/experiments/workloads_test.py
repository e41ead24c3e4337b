"""The benchmark's workloads are those of the issue, and their data what they say."""

import jax
import numpy as np
import pytest

from experiments import workloads
from permfl_jax import federation

SIZES = {"W1": 7_850, "W2": 2_362_874, "W3": 1_430, "W5": 2_519_780}


@pytest.mark.parametrize("workload", [getattr(workloads, n) for n in SIZES])
def test_models_have_the_parameters_of_the_paper(workload):
    params = jax.eval_shape(lambda: workloads.start_params(workload))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert size == SIZES[workload.name]


def test_the_issue_names_the_sizes():
    assert workloads.W1.team_sizes == (10,) * 4
    assert (workloads.W1.team_steps, workloads.W1.device_steps) == (10, 20)
    assert set(workloads.W1.counts) == {550}
    assert workloads.W3.team_sizes == (10,) * 10
    assert {w.batch_size for w in (workloads.W1, workloads.W2, workloads.W3)} == {64}
    for number, workload in workloads.W4.items():
        assert sum(workload.team_sizes) == len(workload.counts) == number
        assert set(workload.counts) == {64}
        assert workload.dtype == "uint8"
        # A slope compares like with like.
        assert workload._replace(name="", team_sizes=(), counts=(), test_counts=()) == (
            workloads.W4[40]._replace(name="", team_sizes=(), counts=(), test_counts=())
        )
    assert list(workloads.W4) == [40, 400, 4_000, 40_000]


def test_cases_that_are_compared_take_as_many_steps():
    for case in workloads.RAGGED.values():
        assert case.steps_per_round == workloads.EVEN.steps_per_round == 40 * 5 * 20
    assert workloads.FEW_ACT.steps_per_round * 10 == workloads.MANY.steps_per_round
    assert workloads.W2.doubled().steps_per_round == 16 * workloads.W2.steps_per_round
    assert workloads.W2.doubled().team_sizes == (20,) * 8


def test_small_teams_act_whole():
    case = workloads.W1._replace(
        team_sizes=(2, 7), devices_per_round=3, team_steps=2, device_steps=5
    )
    assert case.steps_per_round == (2 + 3) * 2 * 5


@pytest.mark.parametrize(
    ("number", "sizes"), [(1000, (40,) * 25), (100, (40, 40, 20)), (7, (7,))]
)
def test_a_workload_can_be_scaled(number, sizes):
    scaled = workloads.W2.scaled_to(number)
    assert scaled.team_sizes == sizes
    assert scaled.counts == (190,) * number
    assert scaled.test_counts == (63,) * number


@pytest.mark.parametrize("workload", [workloads.W1, workloads.W3])
def test_samples_are_views_of_one_array_and_fill_the_federation(workload):
    tiny = workload._replace(team_sizes=(1, 2), counts=(3, 1, 4), test_counts=(0, 2, 0))
    train, test = workloads.samples(tiny)
    assert [len(device["y"]) for device in train] == [3, 1, 4]
    assert [len(device["y"]) for device in test] == [0, 2, 0]
    assert all(device["x"].base is not None for device in train)
    data = workloads.federation_of(tiny)
    assert data.train.pool["x"].dtype == tiny.dtype
    assert data.train.pool["x"].shape == (8, *tiny.sample_shape)
    assert federation.team_sizes(data) == (1, 2)
    np.testing.assert_array_equal(
        data.train.pool["x"], np.concatenate([device["x"] for device in train])
    )
    # Peers, which draw their own copy, get the same samples.
    np.testing.assert_array_equal(workloads.samples(tiny)[1][1]["x"], test[1]["x"])


def test_pixels_use_all_of_their_range_and_the_model_sees_minus_1_to_1():
    tiny = workloads.W1.with_devices((2,), 64, 0)
    x = workloads.samples(tiny)[0][0]["x"]
    assert (x.min(), x.max()) == (0, 255)
    scale, offset = tiny.scale_and_offset
    assert (0 * scale + offset, 255 * scale + offset) == (-1, 1)
    assert workloads.W3.scale_and_offset == (1, 0)


def test_lognormal_counts_are_skewed_about_the_mean():
    counts = np.array(workloads.lognormal_counts(40, 550))
    assert counts.min() >= 1
    assert abs(counts.mean() - 550) < 5
    assert counts.max() > 5 * np.median(counts)


def test_peers_are_told_the_same_task():
    setting = workloads.setting(workloads.W3)
    assert setting.hidden == (20,)
    assert (setting.team_steps, setting.device_steps) == (10, 20)
    # The defaults of `HParams`: Table 2 of the paper.
    assert (setting.device_lr, setting.team_lr, setting.server_lr) == (0.01, 0.03, 0.6)
    assert (setting.device_prox, setting.team_prox) == (0.5, 1.5)
