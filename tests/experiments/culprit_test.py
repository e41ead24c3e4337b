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


def named(built, round_):
    kept = []
    state = culprit.last_finite(built, job.start(built), round_, kept.append)
    assert int(state.round) == round_ - 1
    assert len(kept) == 1
    return culprit.sentence(built, state)


@pytest.mark.parametrize("algorithm", ["permfl", "ditto"])
@pytest.mark.parametrize("place", [0, 3 * B + 1, 13 * B])
def test_the_device_with_the_bad_sample_is_named(algorithm, place):
    device = moved_device()
    built = built_with_a_bad_sample(device, place, f"--algorithm={algorithm}")
    step = place // B  # of all that the device takes, from 0
    round_, team_round = step // (5 * L) + 1, step % (5 * L) // L
    assert named(built, round_) == (
        f"The first to break was device {device} (1 at once), in steps "
        f"{team_round * L + 1} to {team_round * L + L} of that round."
    )


@pytest.mark.parametrize("algorithm", ["hsgd", "fedavg", "scaffold", "demlearn"])
def test_without_models_of_devices_their_losses_tell(algorithm):
    device = moved_device()
    built = built_with_a_bad_sample(device, 13 * B, f"--algorithm={algorithm}")
    tier = "team" if algorithm == "hsgd" else "server"
    assert named(built, 2) == (
        f"By the {tier} model before that round, the training loss of device {device} "
        "is not finite (1 such devices)."
    )


def test_devices_that_break_together_are_not_called_the_first():
    with flagsaver.flagsaver():
        flags.FLAGS([*ARGUMENTS, "--hparam=device_lr=1e30"])
        built = experiment.build(config.from_flags(flags.FLAGS))
    built = experiment.spread(built)
    assert named(built, 1) == "All 6 devices broke at once."


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
    monkeypatch.setattr(experiment, "build", lambda *given: built)
    monkeypatch.setattr(experiment, "spread", lambda same: same)
    with pytest.raises(DivergenceError, match=f"first to break was device {device} "):
        train.run(built.config)
    assert "finding what broke first, from round 0 on" in capsys.readouterr().err
