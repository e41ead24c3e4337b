"""A folder holds one run, and never two."""

import errno
import json
import os

import numpy as np
import pytest

from permfl_jax import results, row_file
from permfl_jax.errors import InputError
from permfl_jax.partitions import ownership
from permfl_jax.results import Workdir

FLAGS = {"seed": 1, "dataset": "mnist", "hparam": ["device_lr=0.1"], "workdir": "/a"}


def refusal(path, flags=FLAGS):
    with pytest.raises(InputError) as caught:
        Workdir(path, flags)
    text = str(caught.value)
    assert text.startswith(f"--workdir={path} ")
    assert text.endswith(".")
    assert ". " not in text.removeprefix(f"--workdir={path}")
    return text


def begin(path, flags=FLAGS, **extra):
    workdir = Workdir(path, flags)
    workdir.write_config(extra)
    return workdir


def rows(path):
    return [
        json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_fresh_folder_is_made_with_its_parents(tmp_path):
    path = tmp_path / "a" / "b"
    workdir = Workdir(path, FLAGS)
    assert workdir.finished is None
    assert path.is_dir()
    assert not list(path.iterdir())


def test_the_config_tells_how_to_repeat_the_run(tmp_path):
    begin(tmp_path, note="hello")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["flags"] == FLAGS
    assert config["note"] == "hello"
    assert {"python", "jax", "numpy", "flax"} <= config["versions"].keys()
    assert config["machine"]["cpu_count"] == os.cpu_count()
    assert "git_commit" in config
    assert config["command"]
    assert rows(tmp_path) == []
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "metrics.jsonl"}


def test_rows_are_appended_one_object_to_a_line(tmp_path):
    workdir = begin(tmp_path)
    written = [{"round": 1, "PM/accuracy": 0.1 + 0.2}, {"round": 2, "note": "a\nb, é"}]
    for number, row in enumerate(written):
        workdir.write_row(row)
        # Each row can be read at once, by whoever watches the run.
        assert rows(tmp_path) == written[: number + 1]


def test_a_finished_run_is_found_again(tmp_path):
    workdir = begin(tmp_path)
    workdir.write_row({"round": 1})
    workdir.write_summary({"best": 0.5})
    again = Workdir(tmp_path, FLAGS)
    assert again.finished == {"best": 0.5}
    assert rows(tmp_path) == [{"round": 1}]  # opening changes nothing
    assert not [p for p in tmp_path.iterdir() if ".tmp" in p.name]


def test_where_files_are_does_not_make_another_run(tmp_path):
    begin(tmp_path).write_summary({"best": 0.5})
    moved = FLAGS | {"workdir": "/b", "data_dir": "/c", "manual_dir": "/d"}
    assert Workdir(tmp_path, moved).finished == {"best": 0.5}


def test_an_unfinished_run_starts_over_without_its_old_rows(tmp_path):
    begin(tmp_path).write_row({"round": 1})
    workdir = Workdir(tmp_path, FLAGS)
    assert workdir.finished is None
    assert rows(tmp_path) == [{"round": 1}]
    workdir.write_config({})
    assert rows(tmp_path) == []
    workdir.write_row({"round": 1, "again": True})
    assert rows(tmp_path) == [{"round": 1, "again": True}]


def test_a_run_stopped_before_its_config_starts_over(tmp_path):
    (tmp_path / ".config.tmp.json").write_text('{"fla')
    begin(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["flags"] == FLAGS


def test_another_run_is_refused_with_the_flags_that_differ(tmp_path):
    begin(tmp_path).write_row({"round": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = FLAGS | {"seed": 2, "hparam": [], "num_rounds": 5, "workdir": "/b"}
    text = refusal(tmp_path, other)
    assert "holds a different run (differing: hparam, num_rounds, seed);" in text
    text = refusal(tmp_path, {k: v for k, v in FLAGS.items() if k != "dataset"})
    assert "(differing: dataset);" in text
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_flags_are_compared_as_json_keeps_them(tmp_path):
    begin(tmp_path, FLAGS | {"hidden": (20, 20)})
    assert Workdir(tmp_path, FLAGS | {"hidden": [20, 20]}).finished is None


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert "(thesis.tex is in it)" in refusal(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize(
    "content", [b"", b'{"flags": ', b"\xff\xfe{}", b"[1]", b"null", b'"text"']
)
def test_damaged_files_are_named(tmp_path, name, content):
    begin(tmp_path).write_summary({"best": 0.5})
    (tmp_path / name).write_bytes(content)
    assert f"holds a damaged {name};" in refusal(tmp_path)


def test_a_path_under_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written (Not a directory)" in refusal(tmp_path / "file" / "run")


def test_a_path_that_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("keep")
    assert "cannot be written (" in refusal(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "keep"


def test_a_folder_without_permission_cannot_be_written(tmp_path, monkeypatch):
    # Not by chmod, which does not stop a superuser.
    monkeypatch.setattr(results.os, "access", lambda path, mode: False)
    assert "cannot be written (Permission denied)" in refusal(tmp_path)


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "write",
    [
        lambda workdir: workdir.write_config({}),
        lambda workdir: workdir.write_row({"round": 2}),
        lambda workdir: workdir.write_summary({"best": 1}),
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, write):
    workdir = begin(tmp_path)
    workdir.write_row({"round": 1})
    monkeypatch.setattr(results, "open", full_disk, raising=False)
    monkeypatch.setattr(row_file, "open", full_disk, raising=False)
    monkeypatch.setattr(results.plain_files.pathlib.Path, "write_text", full_disk)
    with pytest.raises(InputError) as caught:
        write(workdir)
    assert str(caught.value) == (
        f"--workdir={tmp_path} cannot be written (No space left on device)."
    )
    assert isinstance(caught.value.__cause__, OSError)
    # The last whole state is still there.
    assert rows(tmp_path) == [{"round": 1}]
    assert json.loads((tmp_path / "config.json").read_text())["flags"] == FLAGS


def test_a_rename_that_fails_is_one_sentence_too(tmp_path, monkeypatch):
    workdir = begin(tmp_path)
    monkeypatch.setattr(results.os, "replace", full_disk)
    with pytest.raises(InputError, match=r"cannot be written \(No space left"):
        workdir.write_summary({"best": 1})
    assert not (tmp_path / "summary.json").exists()


def test_a_summary_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    workdir = begin(tmp_path)
    workdir.write_summary({"best": 1})
    monkeypatch.setattr(results.os, "replace", full_disk)
    with pytest.raises((InputError, OSError)):
        workdir.write_summary({"best": 2})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"best": 1}


def owned(*, team=1):
    rows = [np.array([3, 1]), np.array([2])]
    return ownership.Ownership(
        rows, [rows[1][:0]] * 2, [rows[1][:0]] * 2, np.array([0, team], np.int32)
    )


def with_partition(path):
    workdir = begin(path, partition={"sha256": ownership.digest(owned())})
    workdir.write_partition(owned())
    return workdir


def test_the_partition_is_kept_and_checked_when_it_is_read(tmp_path):
    with_partition(tmp_path).write_row({"round": 1})
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json",
        "partition.npz",
        "metrics.jsonl",
    }
    again = results.read_partition(tmp_path)
    assert [rows.tolist() for rows in again.train] == [[3, 1], [2]]
    assert again.team.tolist() == [0, 1]
    Workdir(tmp_path, FLAGS)  # still the same run


def test_another_partition_than_that_of_the_config_is_refused(tmp_path):
    with_partition(tmp_path).write_partition(owned(team=0))
    with pytest.raises(InputError, match="is not the one of its config"):
        results.read_partition(tmp_path)


def test_a_folder_without_partition_is_refused(tmp_path):
    with pytest.raises(InputError, match="no partition file"):
        results.read_partition(tmp_path)
    with_partition(tmp_path)
    (tmp_path / "config.json").write_text('{"partition": {}}')
    with pytest.raises(InputError, match=r"no config\.json of a run"):
        results.read_partition(tmp_path)


def test_a_partition_that_cannot_be_written_is_named(tmp_path):
    workdir = begin(tmp_path)
    (tmp_path / ".partition.tmp.npz").mkdir()
    with pytest.raises(InputError, match=r"--workdir=.* cannot be written \("):
        workdir.write_partition(owned())
