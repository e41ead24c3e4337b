"""Metrics reach every place that was asked for, whole and in order."""

import csv
import json
import struct
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, session, train, writers
from permfl_jax.errors import InputError

SMALL = (
    "--num_teams=2",
    "--devices_per_team=2,1",
    "--num_rounds=4",
    "--team_steps=2",
    "--device_steps=3",
    "--batch_size=8",
    "--eval_every=2",
    "--nolocal_floor",
)


def run(folder, *given):
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *SMALL, f"--workdir={folder}", *given])
        train.run(config.from_flags(flags.FLAGS))
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_several_pass_everything_on():
    class Notes:
        def __init__(self):
            self.seen = []

        def write_scalars(self, step, scalars):
            self.seen.append((step, scalars))

        def flush(self):
            self.seen.append("flush")

        def close(self):
            self.seen.append("close")

    one, other = Notes(), Notes()
    several = writers.Several([one, other])
    several.write_scalars(3, {"loss": 0.5})
    several.flush()
    several.close()
    assert one.seen == other.seen == [(3, {"loss": 0.5}), "flush", "close"]


def test_csv_has_every_row_and_metric(tmp_path):
    rows = run(tmp_path / "run")
    with open(tmp_path / "run" / "metrics.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in table] == rows


def test_a_row_counts_bytes_and_steps(tmp_path):
    """K = 2 exchanges of 3 devices, one of 2 teams; MCLR on 8 x 8 digits is 65 x 10."""
    rows = run(tmp_path / "run")
    model = 65 * 10 * 4
    width = 2 if rows[0]["bytes/team_up"] == 2 * 2 * model * 2 else 1  # x64 in tests
    for row in rows:
        sent = model * width * row["round"]
        assert row["bytes/device_up"] == row["bytes/device_down"] == 6 * sent
        assert row["bytes/team_up"] == row["bytes/team_down"] == 2 * sent
        assert row["device_steps"] == row["round"] * 2 * 3 * 3


def events(folder):
    """(step, name, value) of every scalar in the event files of a folder."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        place = 0
        while place < len(content):
            (length,) = struct.unpack("<Q", content[place : place + 8])
            event = event_pb2.Event.FromString(
                content[place + 12 : place + 12 + length]
            )
            place += 16 + length
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_tensorboard_has_every_scalar(tmp_path):
    pytest.importorskip("tensorboardX", reason="extra [tb] is not installed")
    rows = run(tmp_path / "run", "--tensorboard")
    found = {(s, t): v for s, t, v in events(tmp_path / "run" / "tensorboard")}
    for row in rows:
        for name, value in row.items():
            if name != "round":
                assert found[row["round"], name] == pytest.approx(value, rel=1e-6)
    assert len(found) == sum(len(row) - 1 for row in rows)


def test_tensorboard_has_a_row_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    """A kill must not lose what a checkpoint counts as written."""
    pytest.importorskip("tensorboardX", reason="extra [tb] is not installed")
    seen = []

    def after(self, round_, state, seconds):
        folder = tmp_path / "run" / "tensorboard"
        seen.append((round_, {step for step, *_ in events(folder)}))

    monkeypatch.setattr(session.Session, "after", after)
    rows = run(tmp_path / "run", "--tensorboard")
    every = {row["round"] for row in rows}
    assert len(every) > 1
    for round_, steps in seen:
        assert steps == {number for number in every if number <= round_}


def test_tensorboard_of_a_run_that_goes_on_has_the_rows_before(tmp_path):
    pytest.importorskip("tensorboardX", reason="extra [tb] is not installed")
    rows = [{"round": 2, "a": 1.0}, {"round": 4, "a": 3.0}]
    writers.TensorBoard(tmp_path / "new", 5, rows).close()
    assert list(events(tmp_path / "new")) == [(2, "a", 1.0), (4, "a", 3.0)]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "events").write_bytes(b"")  # has them already
    writers.TensorBoard(tmp_path / "old", 5, rows).close()
    assert list(events(tmp_path / "old")) == []


@pytest.mark.parametrize(
    ("flag", "package", "extra"),
    [("tensorboard", "tensorboardX", "tb"), ("wandb", "wandb", "wandb")],
)
def test_a_missing_package_is_named_before_anything_runs(
    tmp_path, monkeypatch, flag, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=rf"--{flag} needs a package .* 'permfl-jax\[{extra}\]', or"
    ):
        run(tmp_path / "run", f"--{flag}")
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_begins_after_its_last_row(tmp_path):
    begin = session.Begin(None, [{"round": 2}, {"round": 4}], 1.0)
    assert writers.first_step(begin) == 5
    assert writers.first_step(session.Begin(None, [], 0.0)) == 0


def test_weights_and_biases_has_every_row_also_those_before_a_stop(tmp_path):
    pytest.importorskip("wandb", reason="the extra [wandb] is not installed")
    rows = run(tmp_path / "run", "--wandb")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    for row in rows:  # as JSON, in messages that are not packed
        assert json.dumps(row["PM/loss"]).encode() in file.read_bytes()
    longer = run(tmp_path / "run", "--wandb", "--num_rounds=6")
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    (second,) = {*files} - {file}
    assert len(longer) == 3
    for row in longer:
        assert json.dumps(row["PM/loss"]).encode() in second.read_bytes()
