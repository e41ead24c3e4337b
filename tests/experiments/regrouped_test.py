"""The study's driver: teams that mix all kinds become true ones, and count so."""

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, experiment
from experiments.members import Members
from experiments.studies import regrouped
from permfl_jax import algorithms, hparams


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
    ((last, rows),) = regrouped.Regrouped(built, who).train(("validation", "test"))
    assert last == 4
    assert [row["seed"] for row in rows] == [0, 1]
    assert built.report["adjusted_rand"] < 0.5
    for row in rows:
        assert row["adjusted_rand"] == 1.0
        assert row["regroupings"] == 1
        model = experiment.model_bytes(built.task)
        assert row["bytes/formation"] == 4 * 12 * model  # one look, after round 2
        assert row["TM/accuracy"] > built.majority_accuracy
