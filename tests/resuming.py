"""Small runs of the training program, stopped by signals."""

import os
import signal

import pytest
from absl import flags
from absl.testing import flagsaver
from killing import _compare_bits, rows

from experiments import config, session, train

SMALL = (
    "--num_teams=2",
    "--devices_per_team=2",
    "--team_steps=2",
    "--device_steps=2",
    "--batch_size=8",
    "--eval_every=2",
    "--checkpoint_every=1",
    "--nolocal_floor",
)


def run(folder, *given, rounds=6):
    with flagsaver.flagsaver():
        flags.FLAGS(
            ["train", *SMALL, f"--num_rounds={rounds}", f"--workdir={folder}", *given]
        )
        train.run(config.from_flags(flags.FLAGS))


def stop_after(monkeypatch, rounds, signum=signal.SIGTERM):
    """A signal as it comes in the middle of a round."""
    after = session.Session.after

    def signalled(self, round_, state, seconds):
        if round_ == rounds:
            os.kill(os.getpid(), signum)
        after(self, round_, state, seconds)

    monkeypatch.setattr(session.Session, "after", signalled)


def stopped_at(monkeypatch, folder, rounds, *given):
    with monkeypatch.context() as patched:
        stop_after(patched, rounds)
        with pytest.raises(session.StoppedError):
            run(folder, *given)


def same(expected, folder):
    assert rows(folder) == rows(expected)
    _compare_bits(expected, folder)
