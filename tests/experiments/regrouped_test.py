"""The study's driver: teams that mix all kinds become true ones, and count so."""

import dataclasses

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, experiment
from experiments.members import Members
from experiments.studies import regrouped
from permfl_jax import algorithms, hparams

NUMBERS = ("update_cosine", 2, 4, 0.02)


@pytest.fixture(scope="module")
def built():
    given = "--dataset=digits --partition=two_level_dirichlet --team_alpha=0.1 "
    given += "--device_alpha=1 --num_teams=3 --devices_per_team=4 --team_steps=2 "
    given += "--device_steps=5 --batch_size=16 --num_rounds=4 --eval_every=4 "
    given += "--team_formation=random --algorithm=permfl_auto --chips=1"
    with flagsaver.flagsaver():
        flags.FLAGS(["test", *given.split()])
        settings = config.from_flags(flags.FLAGS)
    return experiment.spread(experiment.build(settings))


def test_random_teams_become_true_ones(built):
    chosen = hparams.parse(algorithms.get("permfl_auto").hparams, ["device_lr=0.05"])
    who = Members((0, 1), {}, ({"device_lr": 0.05},), (chosen,))
    ((last, rows),) = regrouped.Regrouped(built, who, *NUMBERS).train(
        ("validation", "test")
    )
    assert last == 4
    assert [row["seed"] for row in rows] == [0, 1]
    assert built.report["adjusted_rand"] < 0.5
    for row in rows:
        assert row["adjusted_rand"] == 1.0
        assert row["regroupings"] == 1
        model = experiment.model_bytes(built.task)
        assert row["bytes/formation"] == 4 * 12 * model  # one look, after round 2
        assert row["TM/accuracy"] > built.majority_accuracy


def test_a_member_that_diverges_ends_alone(built):
    kind = algorithms.get("permfl_auto").hparams
    settings = ({"device_lr": 1e30}, {"device_lr": 0.05})
    chosen = tuple(
        hparams.parse(kind, [f"device_lr={x['device_lr']}"]) for x in settings
    )
    who = Members((0,), {}, settings, chosen)
    ((_, (bad, good)),) = regrouped.Regrouped(built, who, *NUMBERS).train(("test",))
    assert "Round 1 diverged" in bad["diverged"]
    assert "TM/accuracy" not in bad
    assert good["TM/accuracy"] > built.majority_accuracy


def test_the_flags_reach_the_look(built):
    settings = dataclasses.replace(built.config, formation_lr=0.125, formation_rounds=3)
    own = regrouped.Regrouped(built._replace(config=settings), None, *NUMBERS)
    probe = own._when(jax.random.key(0), 0).probe
    assert (probe.device_lr, probe.rounds) == (0.125, 3)
