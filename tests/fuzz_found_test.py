"""What the fuzz run found, each as small as it was found."""

import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments import command_line, members, outcome, report_folder
from permfl_jax import assemble, checkpoints, data, plain_files, results, seals
from permfl_jax.algorithms import permfl
from permfl_jax.data import cifar100, emnist_digits, idx, leaf, raw_files
from permfl_jax.errors import InputError
from permfl_jax.partitions import ownership


def idx_file(path, header, values=b""):
    path.write_bytes(gzip.compress(bytes(header) + values))
    return path


@pytest.mark.parametrize(
    "header",
    [
        (),
        (0, 0, 8, 3) + (127, 255, 255, 255) * 3,
        (0, 0, 8, 2) + (255,) * 8,
        (0, 0, 8, 255),
        (0, 0, 8, 2, 0, 0),
        (0, 0, 13, 1, 0, 0, 0, 0),
        (0, 0, 8, 0),
    ],
    ids=str,
)
def test_an_idx_header_that_lies(header, tmp_path):
    with pytest.raises(InputError, match="is no idx file of bytes"):
        idx.read_idx_file(idx_file(tmp_path / "x.gz", header))


def test_an_idx_file_that_is_cut_or_not_packed(tmp_path):
    path = idx_file(tmp_path / "x.gz", (0, 0, 8, 1, 0, 0, 0, 2), b"ab")
    assert idx.read_idx_file(path).tolist() == [97, 98]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be unpacked"):
        idx.read_idx_file(path)
    path.write_bytes(b"abc")
    with pytest.raises(InputError, match="cannot be unpacked"):
        idx.read_idx_file(path)


def test_zeros_for_gigabytes_after_a_packed_file(tmp_path):
    path = idx_file(tmp_path / "x.gz", (0, 0, 8, 1, 0, 0, 0, 1), b"a")
    os.truncate(path, 2**33)
    with pytest.raises(InputError, match="cannot be unpacked"):
        idx.read_idx_file(path)


def test_files_of_flags_that_multiply(tmp_path):
    """Each reads the next, once or twice."""
    for times in (1, 2):
        for number in range(3000):
            line = f"--flagfile={tmp_path}/{number + 1}\n"
            (tmp_path / str(number)).write_text(line * times)
        with pytest.raises(InputError, match="one file of flags more than 100"):
            command_line.expand([f"--flagfile={tmp_path}/0"], flags.FlagValues())
    (tmp_path / "many").write_text("--seed=1\n" * 100_001)
    with pytest.raises(InputError, match="holds more than 100000 flags"):
        command_line.expand([f"--flagfile={tmp_path}/many"], flags.FlagValues())


def test_a_gzip_bomb_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "_MOST_BYTES", 1000)
    path = idx_file(tmp_path / "x.gz", (0, 0, 8, 1, 0, 0, 15, 160), bytes(4000))
    with pytest.raises(InputError, match="cannot be unpacked"):
        idx.read_idx_file(path)


def test_a_bomb_before_the_member_that_is_looked_for(tmp_path, monkeypatch):
    """It was unpacked to the end, however long that took."""
    monkeypatch.setattr(cifar100, "NUM_PICTURES", {"train": 1, "test": 1})
    path = tmp_path / "a.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        info = tarfile.TarInfo("first")
        info.size = 2**21
        archive.addfile(info, io.BytesIO(bytes(2**21)))
    with pytest.raises(InputError, match="holds more than"):
        cifar100.read_split({"a": path}, "train")


def test_a_header_of_tar_that_claims_a_terabyte(tmp_path):
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, 2**40
    path = tmp_path / "a.tar.xz"
    path.write_bytes(lzma.compress(info.tobuf() + b"9999999 path=x\n"))
    with pytest.raises(InputError):
        cifar100.read_split({"a": path}, "train")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 99])
def test_a_zip_that_is_none(content, tmp_path):
    (tmp_path / "gzip.zip").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a zip archive"):
        emnist_digits.read_split({"gzip.zip": tmp_path / "gzip.zip"}, "train")


def test_a_zip_without_the_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        archive.writestr("other", "x")
    with pytest.raises(InputError, match="cannot be read as a zip archive"):
        emnist_digits.read_split({"gzip.zip": tmp_path / "gzip.zip"}, "train")


def test_a_pipe_is_not_waited_for(tmp_path):
    pipe = tmp_path / "all_data_0.json"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="no ordinary file"):
        leaf.read(pipe, 784, 62)
    with pytest.raises(InputError, match="no ordinary file"):
        raw_files.check_file(pipe, "")
    with pytest.raises(InputError, match="no ordinary file"):
        ownership.load(pipe)


def test_a_device_without_end_is_not_read(tmp_path):
    (tmp_path / "x").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="no ordinary file"):
        plain_files.read_bytes(tmp_path / "x", 2**40)


class Executed:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def with_header(path, text):
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member + bytes(40))


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-5,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (5,), }",
        "(" * 9000,
        "__import__('os')",
    ],
    ids=lambda text: text[:60],
)
def test_an_array_that_claims_what_it_does_not_hold(text, tmp_path):
    with_header(tmp_path / "x.npz", text)
    with pytest.raises(ValueError, match="x"):
        plain_files.read_arrays(tmp_path / "x.npz", ["x"])


def test_nothing_is_unpickled(tmp_path):
    canary = tmp_path / "executed"
    np.savez(tmp_path / "x.npz", x=np.array([Executed(str(canary))], object))
    with pytest.raises(ValueError, match="pickled objects, which are not read"):
        plain_files.read_arrays(tmp_path / "x.npz", ["x"])
    assert not canary.exists()


def test_an_array_that_unpacks_to_a_thousand_times_its_file(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(2**27, np.uint8))
    with pytest.raises(ValueError, match="claims 134217"):
        plain_files.read_arrays(tmp_path / "x.npz", ["x"])


@pytest.mark.parametrize(
    "change",
    [
        {"train_offsets": np.array([0, 2**62, 3])},
        {"train_offsets": np.array([0, -1, 3])},
        {"train_offsets": np.array([0.0, 2.0, 3.0])},
        {"train_rows": np.zeros((3, 1), int)},
        {"team": np.array(0, np.int32)},
        {"team": np.array(["a", "b"])},
    ],
    ids=str,
)
def test_a_partition_whose_parts_do_not_fit(change, tmp_path):
    parts = [[np.arange(2), np.arange(2, 3)]] * 3
    with open(tmp_path / "p.npz", "wb") as file:
        ownership.save(file, ownership.Ownership(*parts, team=np.zeros(2, np.int32)))
    ownership.load(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as stored:
        arrays = {**stored, **change}
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(InputError, match="is not a partition file"):
        ownership.load(tmp_path / "p.npz")


def test_more_devices_than_samples_are_refused_before_they_are_dealt():
    digits = data.load("digits", data.SourceOptions())
    with pytest.raises(InputError, match="2000000 devices were to share 1797 samples"):
        assemble.build(digits, team_sizes=(1,) * 2_000_000)


@pytest.mark.parametrize("devices", [10**5, 10**7])
def test_synthetic_data_beyond_memory_is_not_drawn(devices, monkeypatch):
    monkeypatch.setattr("permfl_jax.hosts.memory", lambda: 1e9)
    with pytest.raises(
        InputError, match=r"takes at least .* GB and this machine has 1"
    ):
        data.load("synthetic", data.SourceOptions(num_devices=devices))


def test_a_grid_beyond_counting():
    grid = [
        f"{name}=" + ",".join(map(str, range(1, 3000)))
        for name in ("device_lr", "team_lr", "device_prox")
    ]
    with pytest.raises(InputError, match="make 26973008999 members"):
        members.members(permfl.HParams, [], ["0"], grid)


def test_an_attribute_is_no_axis_of_a_grid():
    with pytest.raises(InputError, match="no hyper-parameter '__class__' here"):
        members.members(permfl.HParams, [], ["0"], ["__class__=1"])


def test_many_seeds_are_read_in_time():
    """Each was compared with all others."""
    assert len(members.read_seeds([str(n) for n in range(100_000)])) == 100_000


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_file_of_a_run_that_is_deep_or_a_pipe(name, tmp_path):
    (tmp_path / "config.json").write_text('{"flags": {}}')
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(InputError, match="holds a damaged"):
        results.Workdir(tmp_path, {})
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="holds a damaged"):
        results.Workdir(tmp_path, {})


def test_flags_of_other_names_are_told_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"flags": {"a\n\nb": 1}}))
    with pytest.raises(InputError, match=r"differing: 'a\\n\\nb'\)"):
        results.Workdir(tmp_path, {})


def test_a_file_of_a_run_that_is_a_link_to_itself(tmp_path):
    (tmp_path / "config.json").symlink_to("config.json")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        report_folder.read(str(tmp_path))


@pytest.mark.parametrize("summary", [{"last": 1}, {"last": None, "floors": []}])
def test_a_summary_of_another_shape(summary, tmp_path):
    with pytest.raises(InputError, match=r"holds a damaged summary\.json"):
        outcome.of_finished(outcome.table, summary, tmp_path)


def sealed(path, change):
    kept = checkpoints.Checkpoints(path)
    kept.save(1, {"w": jnp.arange(6.0)}, {})
    kept.close()
    change(path / "1")
    return path


def forged(change):
    def forge(folder):
        path = folder / "meta" / "metadata"
        meta = json.loads(path.read_text())
        path.write_text(change(meta))
        seals.write(folder)

    return forge


@pytest.mark.parametrize(
    "change",
    [
        forged(lambda meta: json.dumps(meta)[:30]),
        forged(lambda meta: DEEP),
        forged(lambda meta: json.dumps(meta | {"leaves": [[{}, [6], "float32"]]})),
        forged(lambda meta: json.dumps(meta | {"leaves": 5})),
        lambda folder: (folder / "seal.json").write_text(DEEP),
    ],
)
def test_a_forged_checkpoint_is_not_gone_on_from(change, tmp_path):
    """One that was changed and sealed again, so that it looks whole."""
    path = sealed(tmp_path / "c", change)
    try:
        _, arrays = checkpoints.read(path)
    except InputError as error:
        assert "holds no whole checkpoint" in str(error)  # noqa: PT017
    else:
        assert list(arrays) == ["{}"]
    store = checkpoints.Checkpoints(path)
    template = {"w": jnp.arange(6.0)}
    if seals.broken(path / "1"):
        assert store.restore(template, lambda progress: None) is None
    else:
        with pytest.raises(InputError, match="c/1 is a whole checkpoint, but"):
            store.restore(template, lambda progress: None)
    store.abandon()


@pytest.mark.parametrize("name", ["seal.json", "meta/metadata"])
def test_a_pipe_in_a_checkpoint(name, tmp_path):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    with pytest.raises(InputError, match="holds no whole checkpoint"):
        checkpoints.read(sealed(tmp_path / "c", change))
