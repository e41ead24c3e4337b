"""What a run once saved it does not throw away, whatever is found there later."""

import json
import os
import shutil
import signal
import sys

import pytest
from killing import rows
from resuming import run, same, stopped_at

from experiments import session, train
from permfl_jax import checkpoints, results
from permfl_jax.errors import InputError


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(folder)
    return folder


def test_rows_that_changed_are_told_and_cost_nothing(plain, tmp_path, monkeypatch):
    """One digit of a row: the states are whole, so nothing may be thrown away."""
    stopped_at(monkeypatch, tmp_path / "run", 4)
    path = tmp_path / "run" / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text.replace("0.", "0.9", 1))
    with pytest.raises(
        InputError,
        match=r"checkpoints/4 is a whole checkpoint, but metrics.jsonl is not what it "
        "was then; nothing was changed",
    ):
        run(tmp_path / "run")
    kept = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints").rounds()
    assert kept == [4, 3]
    path.write_text(text)
    run(tmp_path / "run")
    same(plain, tmp_path / "run")


class KilledError(Exception):
    """Nothing is done after it."""


def test_grown_and_killed_before_the_next_save_it_goes_on(plain, tmp_path, monkeypatch):
    """Round 3 has a row that the longer run has not: it is gone before a new mark."""
    run(tmp_path / "run", rounds=3)
    train_ = train.job.train

    def killed(built, begin, on_row, after):
        def after_four(round_, state, seconds):
            if round_ == 4:  # its row is written, its state is not
                raise KilledError

        return train_(built, begin, on_row, after_four)

    with monkeypatch.context() as patched:
        patched.setattr(train.job, "train", killed)
        with pytest.raises(KilledError):
            run(tmp_path / "run")
    assert [row["round"] for row in rows(tmp_path / "run")] == [2, 4]
    run(tmp_path / "run")
    same(plain, tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["command"][1:] == sys.argv


def test_a_finished_run_without_checkpoints_is_not_written_over(tmp_path):
    run(tmp_path / "run", rounds=3)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="a finished run of fewer rounds and no check"):
        run(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    run(tmp_path / "run", rounds=3)  # is shown


def test_who_has_what_is_written_again_if_it_is_gone(plain, tmp_path, monkeypatch):
    stopped_at(monkeypatch, tmp_path / "run", 4)
    (tmp_path / "run" / "partition.npz").unlink()
    run(tmp_path / "run")
    results.read_partition(tmp_path / "run")


def test_other_code_is_told(tmp_path, monkeypatch, capsys):
    stopped_at(monkeypatch, tmp_path / "run", 4)
    path = tmp_path / "run" / "config.json"
    recorded = json.loads(path.read_text())
    path.write_text(json.dumps(recorded | {"git_commit": "abcde"}))
    run(tmp_path / "run")
    assert "going on after round 4 of 6 (by commit abcde)" in capsys.readouterr().err


def test_the_local_floor_goes_on_too(tmp_path, monkeypatch, capsys):
    run(tmp_path / "plain", "--local_floor")
    with monkeypatch.context() as patched:
        after, calls = session.Session.after, []

        def signalled(self, round_, state, seconds):
            calls.append(round_)
            if len(calls) == 6 + 4:  # in round 4 of the floor
                os.kill(os.getpid(), signal.SIGTERM)
            after(self, round_, state, seconds)

        patched.setattr(session.Session, "after", signalled)
        with pytest.raises(session.StoppedError, match="after round 4, which is saved"):
            run(tmp_path / "run", "--local_floor")
    assert not (tmp_path / "run" / "summary.json").exists()
    run(tmp_path / "run", "--local_floor")
    told = capsys.readouterr().err
    assert "each device alone: going on after round 4 of 6" in told
    summaries = [
        json.loads((tmp_path / name / "summary.json").read_text())["floors"]
        for name in ("plain", "run")
    ]
    assert summaries[0] == summaries[1]
    assert "local/accuracy" in summaries[0]
    assert not (tmp_path / "run" / "checkpoints_floor").exists()


def test_a_floor_that_diverges_does_not_cost_the_run(tmp_path, capsys):
    pulls = ["team_lr=0.01", "server_lr=0.01", "team_prox=0.1", "device_prox=0"]
    given = [f"--hparam={text}" for text in ("device_lr=30", *pulls)]
    run(tmp_path / "run", "--l2=1", "--local_floor", *given, rounds=40)
    assert "no floor of each device alone: Round " in capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["floors"]) == ["majority/accuracy"]
    assert summary["last"]["round"] == 40
