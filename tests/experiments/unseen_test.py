"""The study's driver for a team that is left out, against the package by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, costs, experiment
from experiments.members import Members
from experiments.studies import unseen
from permfl_jax import algorithms, deploy, evaluate, hparams, keys, runner
from permfl_jax import federation as fed
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler


@pytest.fixture(scope="module")
def built():
    given = "--dataset=digits --num_teams=4 --devices_per_team=3 --team_steps=2 "
    given += "--device_steps=3 --batch_size=8 --num_rounds=3 --eval_every=3 "
    given += "--algorithm=permfl --chips=1"
    with flagsaver.flagsaver():
        flags.FLAGS(["test", *given.split()])
        settings = config.from_flags(flags.FLAGS)
    return experiment.spread(experiment.build(settings))


def rows(built, name, seeds, num_teams, **numbers):
    given = [f"{k}={v!r}" for k, v in numbers.items()]
    chosen = hparams.parse(algorithms.get(name).hparams, given)
    method = algorithms.get(name)
    own = built._replace(
        method=method,
        algorithm=method.factory(built.task.loss, built.schedule, built.sampler),
    )
    who = Members(seeds, {}, (numbers,), (chosen,))
    ((last, found),) = unseen.Unseen(own, who, num_teams).train(("test",))
    assert last == 3
    return found


@pytest.mark.parametrize("seed", [0, 2])
def test_it_is_training_without_the_team_and_its_first_round_after(built, seed):
    numbers = {"device_lr": 0.05, "device_prox": 0.5, "team_prox": 0.5}
    (row,) = rows(built, "permfl", (seed,), 2, **numbers)
    chosen = hparams.parse(
        built.method.hparams, [f"{k}={v}" for k, v in numbers.items()]
    )
    key, traced = jax.random.key(seed), chosen.traced()
    others = [(seed + 1) % 4, (seed + 2) % 4]
    trained_on = fed.of_teams(built.federation, others)
    factory, loss = built.method.factory, built.task.loss
    algorithm = factory(loss, built.schedule, Sampler((3, 3)))
    start = runner.start(algorithm, built.task.init(keys.init_key(key)), trained_on)
    *_, (state, _) = runner.run(algorithm, key, traced, start, trained_on, 3)
    new = fed.of_teams(built.federation, [seed])
    x, y = (np.asarray(new.train.pool[k]) for k in "xy")
    spans = zip(new.train.start.tolist(), new.train.count.tolist(), strict=True)
    devices = [{"x": x[a : a + n], "y": y[a : a + n]} for a, n in spans]
    made = deploy.new_team(
        *(factory, loss, built.schedule, traced, state.server, devices),
        key=key,
        numbers=new.identity.tolist(),
    )
    expected = evaluate.Evaluator(built.task.metrics, new).rows(
        {
            "PM": ("device", made.device),
            "TM": ("team", jax.tree.map(lambda leaf: leaf[None], made.team)),
            "GM": ("server", state.server),
        },
        ("test",),
    )
    assert {name: row[name] for name in expected} == expected
    assert row["PM/accuracy"] != row["GM/accuracy"]


def test_bytes_are_those_of_the_teams_that_are_trained_on(built):
    (one,) = rows(built, "permfl", (0,), 1, device_lr=0.05)
    (three,) = rows(built, "permfl", (0,), 3, device_lr=0.05)
    model = experiment.model_bytes(built.task)
    assert one["bytes/team_up"] == 3 * model
    assert three["bytes/team_up"] == 9 * model
    whole = costs.cost(built, built.hparams, 3)
    assert whole["bytes/team_up"] == 12 * model


def test_the_same_devices_are_left_out_whatever_is_trained_on(built):
    """A method that does not train: only who is scored tells rows apart."""
    few, more = (
        rows(built, "permfl", (0, 1), teams, device_lr=1e-12, server_lr=1e-12)
        for teams in (1, 3)
    )
    for a, b in zip(few, more, strict=True):
        assert a["GM/accuracy"] == b["GM/accuracy"]


def test_what_leaves_no_team_out_is_refused(built):
    with pytest.raises(InputError, match=r"4 teams are trained on .* there are 4"):
        unseen.Unseen(built, None, 4)
    some = dataclasses.replace(built.config, teams_per_round=2)
    with pytest.raises(InputError, match="--teams_per_round cannot be used"):
        unseen.Unseen(built._replace(config=some), None, 2)


def test_devices_act_as_asked_and_divergence_there_is_told(built):
    few = dataclasses.replace(built.config, devices_per_round=1)
    (row,) = rows(built._replace(config=few), "permfl", (0,), 2, device_lr=0.05)
    (whole,) = rows(built, "permfl", (0,), 2, device_lr=0.05)
    assert 3 * row["bytes/device_up"] == whole["bytes/device_up"]
    assert "PM_adapted/accuracy" in row
    (bad,) = rows(built, "permfl", (0,), 2, device_lr=1e30)
    assert "diverged" in bad["diverged"]
