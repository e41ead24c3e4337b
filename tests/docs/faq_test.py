"""Every message that the FAQ quotes is what the program says, word for word.

In a quotation … stands for what differs from case to case.
"""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from pages import DOCS

from experiments import config, experiment, job
from permfl_jax import federation, placement, results, runner
from permfl_jax.algorithms.permfl import HParams, permfl
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

SMALL = ("--num_teams=2", "--devices_per_team=3", "--num_rounds=4")


def settings(*given):
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *SMALL, *given])
        return config.from_flags(flags.FLAGS)


def build(*given):
    return lambda folder: experiment.build(settings(*given))


def warn(*given):
    def warnings(folder):
        raise UserWarning("\n".join(job.advice(experiment.build(settings(*given)))))

    return warnings


def two_devices(**more):
    one = {"x": np.ones((3, 2), np.float32)} | more
    return federation.from_arrays([one, one], ["a", "b"])


def quadratic(params, batch):
    return 0.5 * ((batch["x"] - params[None]) ** 2).sum(axis=1)


def run(sampler=None, hparams=None):
    data = two_devices()
    schedule = Schedule(batch_size=None)
    algorithm = permfl(quadratic, schedule, sampler or Sampler.of(data))
    state = runner.start(algorithm, jnp.zeros(2, jnp.float32), data)
    numbers = (hparams or HParams()).traced()
    *_, (end, _) = runner.run(algorithm, jax.random.key(0), numbers, state, data, 2)
    return state, end


def used_twice(folder):
    before, _ = run()
    return np.asarray(before.server)


def too_large_steps(folder):
    run(hparams=HParams(device_lr=1e20))


def other_run_in_folder(folder):
    for seed in (0, 1):
        asked = vars(settings(f"--seed={seed}", f"--workdir={folder}"))
        results.Workdir(str(folder), asked).write_config({})


def placed_twice(folder):
    data = two_devices()
    mesh = placement.choose_mesh(data, jax.devices()[:2])
    placement.place(placement.place(data, mesh), mesh)


def more_chips_than_there_are(folder):
    experiment.spread(experiment.build(settings("--chips=999")))


# Anchor of the FAQ's entry to what makes the program say it.
PROVOKED = {
    "diverged": too_large_steps,
    "will-diverge": warn("--hparam=device_lr=9"),
    "too-few-steps": warn("--l2=0.001", "--num_rounds=100"),
    "held-by-server": warn("--hparam=team_prox=50", "--hparam=device_prox=0.1"),
    "too-little-pull": warn("--hparam=device_prox=1e-6", "--hparam=team_prox=1e-6"),
    "hparam-unknown": build("--hparam=lr=0.1"),
    "hparam-range": build("--hparam=device_prox=-1"),
    "other-folder": other_run_in_folder,
    "rounds-per-call": build("--rounds_per_call=3"),
    "chips": more_chips_than_there_are,
    "no-test-samples": build("--test_fraction=0"),
    "few-classes": build("--team_formation=worst_case", "--classes_per_device=6"),
    "no-truth": build("--team_formation=oracle"),
    "formation-diverged": build(
        "--team_formation=update_cosine",
        "--formation_lr=1e30",
        "--device_steps=20",
        "--l2=1",
    ),
    "no-windows": build("--team_formation=worst_case", "--partition=dirichlet"),
    "no-raw-files": lambda folder: build(
        "--dataset=banking77", f"--manual_dir={folder}", f"--data_dir={folder}"
    )(folder),
    "keep-personal": build("--algorithm=ditto", "--nokeep_personal"),
    "deleted": used_twice,
    "other-federation": lambda folder: run(sampler=Sampler((2, 2))),
    "spread-already": placed_twice,
    "not-finite-data": lambda folder: two_devices(
        y=np.array([1.0, np.nan, 0.0], np.float32)
    ),
    "labels": lambda folder: federation.from_arrays(
        [{"x": np.ones((2, 1), np.float32), "y": np.array([1, 2])}], [0], num_classes=2
    ),
}


def quoted():
    """Anchor to the message that stands below it."""
    text = (DOCS / "faq.md").read_text(encoding="utf-8")
    entries = re.split(r"^\(faq-([\w-]+)\)=\n", text, flags=re.MULTILINE)[1:]
    found = {}
    for anchor, body in zip(entries[::2], entries[1::2], strict=True):
        (message,) = re.findall(r"^```text\n(.*?)^```$", body, re.M | re.S)[:1] or [""]
        found[anchor] = " ".join(message.split())
    return found


def test_every_message_is_provoked_and_nothing_else():
    said = {anchor for anchor, message in quoted().items() if message}
    assert said == set(PROVOKED)


@pytest.mark.parametrize("anchor", sorted(PROVOKED))
def test_the_program_says_what_is_quoted(anchor, tmp_path):
    endings = (ValueError, FloatingPointError, RuntimeError, UserWarning)
    with pytest.raises(endings) as caught:
        PROVOKED[anchor](tmp_path)
    expected = quoted()[anchor]
    pattern = ".*".join(map(re.escape, expected.split("…")))
    said = [" ".join(line.split()) for line in str(caught.value).splitlines()]
    assert any(re.fullmatch(pattern, line) for line in said), f"{expected}\n{said}"
    assert len(re.sub(r"\W", "", expected)) > 20  # not all of it is left open
