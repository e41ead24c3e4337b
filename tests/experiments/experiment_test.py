"""Every flag reaches what it names."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, experiment, job, session
from permfl_jax import assemble, data, evaluate, keys, runner
from permfl_jax import federation as fed
from permfl_jax.errors import InputError

SMALL = ("--num_teams=2", "--devices_per_team=2,3", "--num_rounds=2")


def settings(*given):
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *SMALL, *given])
        return config.from_flags(flags.FLAGS)


def trained(built):
    """All rows of a run from its first round."""
    begin = session.Begin(job.start(built), [], 0.0)
    return job.train(built, begin, lambda row: None, lambda *_: None)


def test_schedule_and_sampler_are_what_was_asked_for():
    built = experiment.build(
        settings(
            "--team_steps=3",
            "--device_steps=4",
            "--batch_size=7",
            "--batching=cyclic",
            "--weights=samples",
            "--aggregate=stale",
            "--nokeep_personal",
            "--teams_per_round=1",
            "--devices_per_round=2",
        )
    )
    assert dataclasses.asdict(built.schedule) == {
        "team_steps": 3,
        "device_steps": 4,
        "batch_size": 7,
        "batching": "cyclic",
        "weights": "samples",
        "aggregate": "stale",
        "keep_personal": False,
        "uplink": None,
    }
    assert dataclasses.astuple(built.sampler) == ((2, 3), 1, 2)
    assert fed.team_sizes(built.federation) == (2, 3)
    assert experiment.build(settings("--batch_size=0")).schedule.batch_size is None


def test_hyper_parameters_and_l2_are_what_was_asked_for():
    built = experiment.build(settings("--hparam=device_prox=2.5", "--l2=0.5"))
    assert built.hparams.device_prox == 2.5
    plain = experiment.build(settings())
    params = plain.task.init(jax.random.key(0))
    batch = jax.tree.map(lambda x: x[:3], plain.federation.train.pool)
    norm = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(
        built.task.loss(params, batch),
        plain.task.loss(params, batch) + 0.25 * norm,
        rtol=1e-5,
    )


def test_fractions_and_classes_are_what_was_asked_for():
    built = experiment.build(
        settings(
            "--classes_per_device=3",
            "--validation_fraction=0.2",
            "--test_fraction=0.3",
            "--seed=4",
        )
    )
    counts = [
        fed.class_counts(getattr(built.federation, part), 10)
        for part in ("train", "validation", "test")
    ]
    assert ((sum(counts) > 0).sum(axis=1) == 3).all()
    sizes = np.array([count.sum() for count in counts])
    np.testing.assert_allclose(sizes / sizes.sum(), [0.5, 0.2, 0.3], atol=0.03)
    other = experiment.build(settings("--classes_per_device=3"))
    assert built.report["sha256"] != other.report["sha256"]


@pytest.mark.parametrize(
    ("partition", "number", "value"),
    [
        ("classes", "classes_per_device", 3),
        ("dirichlet", "dirichlet_alpha", 0.1),
        ("two_level_dirichlet", "team_alpha", 0.1),
        ("two_level_dirichlet", "device_alpha", 0.1),
        ("quantity", "quantity_sigma", 2.0),
        ("dirichlet", "min_samples", 300),
    ],
)
def test_numbers_of_partitions_are_what_was_asked_for(partition, number, value):
    plain = experiment.build(settings(f"--partition={partition}"))
    given = experiment.build(
        settings(f"--partition={partition}", f"--{number}={value}")
    )
    assert plain.report["sha256"] != given.report["sha256"]
    assert given.report["partition"] == partition
    examples = data.load("digits", data.SourceOptions())
    direct = assemble.build(
        examples, team_sizes=(2, 3), partition=partition, **{number: value}
    )
    assert given.report == direct.report
    assert given.report["formation"] == (
        "consecutive" if partition == "two_level_dirichlet" else "random"
    )


def test_hidden_widths_and_synthetic_spreads_reach_their_owners(monkeypatch):
    given = ("--dataset=synthetic", "--model=dnn", "--hidden=7,5")
    built = experiment.build(settings(*given))
    params = built.task.init(jax.random.key(0))
    assert params["hidden_0"]["weight"].shape == (7, 60)
    assert params["hidden_1"]["weight"].shape == (5, 7)
    told = []
    load = experiment.data.load
    monkeypatch.setattr(
        experiment.data, "load", lambda *args: told.append(args[1]) or load(*args)
    )
    spreads = ("--synthetic_alpha=3", "--synthetic_beta=4")
    experiment.build(settings(*given, *spreads, "--text_features=77"))
    assert told[0].text_features == 77
    assert (told[0].alpha, told[0].beta, told[0].num_devices) == (3, 4, 5)


def test_advice_knows_l2(monkeypatch):
    built = experiment.build(settings("--l2=0.25"))
    told = []
    monkeypatch.setattr(
        experiment.algorithms.Method,
        "advise",
        property(lambda self: lambda *args: told.append(args[-1]) or []),
    )
    assert job.advice(built) == []
    assert told == [0.25]


def test_the_local_floor_is_local_training_with_the_same_step_size():
    built = experiment.build(settings("--hparam=device_lr=0.2", "--team_steps=3"))
    floor = job.floors(built)
    alone = experiment.build(
        settings("--algorithm=local", "--hparam=device_lr=0.2", "--team_steps=3")
    )
    row = trained(alone)[-1]
    assert floor["local/accuracy"] == row["PM/accuracy"]
    assert floor["local/loss"] == row["PM/loss"]
    other = experiment.build(
        settings("--algorithm=local", "--hparam=device_lr=0.01", "--team_steps=3")
    )
    assert trained(other)[-1]["PM/loss"] != (floor["local/loss"])


def test_the_seed_reaches_the_initial_model_and_the_run():
    one, two = (experiment.build(settings(f"--seed={s}")) for s in (0, 1))
    rows = [trained(e)[-1] for e in (one, two)]
    assert rows[0]["PM/loss"] != rows[1]["PM/loss"]
    again = trained(one)[-1]
    drop = {"seconds"}
    assert {k: v for k, v in again.items() if k not in drop} == {
        k: v for k, v in rows[0].items() if k not in drop
    }


def test_train_scores_the_state_that_the_runner_leaves():
    built = experiment.build(settings("--num_rounds=3", "--eval_every=2"))
    rows = trained(built)
    assert [row["round"] for row in rows] == [2, 3]
    key, hparams = jax.random.key(0), built.hparams.traced()
    params = built.task.init(keys.init_key(key))
    start = runner.start(built.algorithm, params, built.federation)
    *_, (state, _) = runner.run(
        built.algorithm, key, hparams, start, built.federation, 3
    )
    scored = evaluate.models_of(built.algorithm, key, hparams, state, built.federation)
    row = evaluate.Evaluator(built.task.metrics, built.federation).rows(scored)
    assert row["GM/loss"] == pytest.approx(rows[-1]["GM/loss"], rel=1e-12)


@pytest.mark.parametrize(
    ("given", "models"),
    [
        ([], 21),
        (["--nokeep_personal"], None),
        (["--device_upload=int8"], 41),
        (["--device_upload=int8", "--nokeep_personal"], 21),
        (["--device_upload=int8", "--nokeep_personal", "--noupload_memory"], None),
        (["--device_loss=0.5"], 21),
    ],
)
def test_models_and_memories_must_fit(given, models, monkeypatch):
    """Of 20 devices; there is room for 20 models."""
    size = 4 * (64 * 10 + 10)
    monkeypatch.setattr("permfl_jax.hosts.memory", lambda: 20.5 * size)
    asked = settings("--num_teams=4", "--devices_per_team=5", *given)
    if models is None:
        experiment.build(asked)
        return
    with pytest.raises(InputError, match=f"{models} of them are kept"):
        experiment.build(asked)
