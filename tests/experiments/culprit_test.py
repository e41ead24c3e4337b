"""The device that broke first is found, also where all are broken when it is seen."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, culprit, experiment, job, train
from permfl_jax import runner
from permfl_jax.errors import DivergenceError

L, B = 2, 4
ARGUMENTS = ["train", "--dataset=synthetic", "--num_teams=2", "--devices_per_team=3"]
ARGUMENTS += ["--num_rounds=4", "--team_steps=5", f"--device_steps={L}", "--chips=1"]
ARGUMENTS += [f"--batch_size={B}", "--batching=cyclic", "--team_formation=random"]
ARGUMENTS += ["--hparam=device_lr=0.001", "--nolocal_floor"]


def built_with_a_bad_sample(device, place, *given):
    """NaN in the sample that `device` sees in its mini-batch `place // B`."""
    with flagsaver.flagsaver():
        flags.FLAGS([*ARGUMENTS, *given])
        built = experiment.build(config.from_flags(flags.FLAGS))
    samples = built.federation.train
    row = int(np.flatnonzero(np.asarray(built.federation.identity) == device)[0])
    assert row != device  # or the test could not tell them apart
    pool = dict(samples.pool)
    x = np.array(pool["x"])
    x[int(samples.start[row]) + place] = np.nan
    pool["x"] = jax.numpy.asarray(x)
    train_samples = dataclasses.replace(samples, pool=pool)
    federation = dataclasses.replace(built.federation, train=train_samples)
    return experiment.spread(built._replace(federation=federation))


def moved_device():
    with flagsaver.flagsaver():
        flags.FLAGS(ARGUMENTS)
        built = experiment.build(config.from_flags(flags.FLAGS))
    identity = np.asarray(built.federation.identity)
    return int(np.flatnonzero(identity != np.arange(len(identity)))[-1])


@pytest.mark.parametrize("algorithm", ["permfl", "ditto", "hsgd"])
@pytest.mark.parametrize("place", [0, 3 * B + 1, 13 * B])
def test_the_device_with_the_bad_sample_is_named(algorithm, place):
    device = moved_device()
    built = built_with_a_bad_sample(device, place, f"--algorithm={algorithm}")
    step = place // B  # of all that the device takes, from 0
    round_, team_round = step // (5 * L) + 1, step % (5 * L) // L
    found = culprit.sentence(built, job.start(built), round_)
    if algorithm == "hsgd":  # keeps no device's model
        assert found == ""
        return
    assert found == (
        f"The first to break was device {device} (1 at once), in steps "
        f"{team_round * L + 1} to {team_round * L + L} of that round."
    )


def test_a_run_that_diverges_says_so(tmp_path, monkeypatch, capsys):
    device = moved_device()
    built = built_with_a_bad_sample(device, 0, f"--workdir={tmp_path}")
    with pytest.raises(DivergenceError) as plain:
        list(
            runner.run(
                built.algorithm,
                jax.random.key(0),
                built.hparams.traced(),
                job.start(built),
                built.federation,
                1,
            )
        )
    assert "(6, the first of device 0)" in str(plain.value)  # all, at the end
    monkeypatch.setattr(experiment, "build", lambda settings: built)
    monkeypatch.setattr(experiment, "spread", lambda same: same)
    with pytest.raises(DivergenceError, match=f"first to break was device {device} "):
        train.run(built.config)
    assert "finding what broke first, from round 0 on" in capsys.readouterr().err
