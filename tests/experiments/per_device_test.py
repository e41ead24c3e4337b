"""devices.npz tells what plain loops over the devices find."""

import io
import zipfile

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, experiment, job, per_device, session
from permfl_jax import data
from permfl_jax.errors import InputError

SMALL = (
    *("--num_teams=3", "--num_rounds=2", "--team_steps=2", "--device_steps=2"),
    *("--devices_per_team=2,1,3", "--batch_size=8", "--team_formation=random"),
)
BACKS = [(), ("--algorithm=fedavg",), ("--devices_per_team=2,2,4", "--chips=4")]
BACKS += [("--devices_per_round=1",), ("--nokeep_personal",)]


def settings(*given):
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *SMALL, *given])
        return config.from_flags(flags.FLAGS)


def trained(folder, *given):
    """What a run calls; the built experiment, the last state and row."""
    asked = settings(*given)
    host = experiment.build(asked)
    classes = per_device.classes(host)
    built, last = experiment.spread(host), {}

    def after(round_, state, seconds):
        del seconds
        if round_ == asked.num_rounds:
            last["state"] = jax.tree.map(np.asarray, state)
            measured = per_device.measure(built, state)
            per_device.write(folder, built, classes, measured)

    begin = session.Begin(job.start(built), [], 0.0)
    rows = job.train(built, begin, lambda row: None, after)
    return host, last["state"], rows[-1]


def test_classes_are_those_of_the_rows_of_partition_npz(tmp_path):
    built = experiment.build(settings())
    per_device.write(tmp_path, built, per_device.classes(built))
    found = per_device.read(tmp_path)
    assert found.partition == built.report["sha256"]
    assert (found.round, found.correct, found.count.tolist()) == (None, {}, [0] * 6)
    labels = data.load("digits", data.SourceOptions()).y
    last = max(labels[rows].max() for part in built.ownership[:3] for rows in part)
    assert found.classes.shape == (6, last + 1)
    for device, parts in enumerate(zip(*built.ownership[:3], strict=True)):
        own = labels[np.concatenate(parts)]
        expected = [int((own == label).sum()) for label in range(last + 1)]
        assert found.classes[device].tolist() == expected


@pytest.mark.parametrize("given", BACKS, ids=str)
def test_scores_pool_to_the_row_of_the_last_round(tmp_path, given):
    host, _, row = trained(tmp_path, *given)
    found = per_device.read(tmp_path)
    assert found.round == 2
    assert found.count.tolist() == [len(rows) for rows in host.ownership.test]
    labels = {name.split("/")[0] for name in row if name.endswith("M/accuracy")}
    assert labels <= set(found.correct)
    for label, correct in found.correct.items():
        pooled = correct.sum() / found.count.sum()
        each = correct[found.count > 0] / found.count[found.count > 0]
        np.testing.assert_allclose(pooled, row[f"{label}/accuracy"], rtol=1e-6)
        np.testing.assert_allclose(
            each.mean(), row[f"{label}/device_mean_accuracy"], rtol=1e-6
        )


def test_each_device_has_the_score_of_its_own_model_on_its_own_rows(tmp_path):
    host, state, _ = trained(tmp_path)
    found = per_device.read(tmp_path)
    examples = data.load("digits", data.SourceOptions())
    identity = np.asarray(host.federation.identity).tolist()
    for device, rows in enumerate(host.ownership.test):
        batch = {"x": examples.x[rows], "y": examples.y[rows]}
        place, team = identity.index(device), host.ownership.team[device]
        models = {
            "PM": jax.tree.map(lambda leaf, p=place: leaf[p], state.device),
            "TM": jax.tree.map(lambda leaf, t=team: leaf[t], state.team),
            "GM": state.server,
        }
        for label, model in models.items():
            right = float(host.task.metrics(model, batch)["accuracy"].sum())
            assert found.correct[label][device] == right, (device, label)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    built = experiment.build(settings())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"devices\.npz cannot be written"):
        per_device.write(tmp_path / "file", built, per_device.classes(built))


GOOD = {
    "partition": np.array("0" * 64),
    "classes": np.array([[3, 1], [0, 2]], np.int32),
    "round": np.array(4),
    "count": np.array([2, 1], np.int32),
    "correct/PM": np.array([2, 0], np.int32),
}
BAD = {
    "no partition": {"partition": None},
    "partition a number": {"partition": np.array(3)},
    "classes of one axis": {"classes": np.array([3, 1], np.int32)},
    "classes below 0": {"classes": np.array([[3, 1], [-1, 2]], np.int32)},
    "classes of another kind": {"classes": np.ones((2, 2))},
    "no count": {"count": None},
    "no round": {"round": None},
    "two rounds": {"round": np.array([1, 2])},
    "too few": {"correct/PM": np.array([2], np.int32)},
    "more right than there are": {"correct/PM": np.array([3, 0], np.int32)},
    "pickled": {"classes": np.array([[3, None]], object)},
    "no number": {"count": np.array(["a", "b"])},
}


def save(folder, change):
    arrays = {k: v for k, v in (GOOD | change).items() if v is not None}
    np.savez(folder / per_device.NAME, **arrays)


def test_the_good_file_is_read(tmp_path):
    save(tmp_path, {})
    found = per_device.read(tmp_path)
    assert found.correct["PM"].tolist() == [2, 0]
    assert found.round == 4


@pytest.mark.parametrize("change", BAD.values(), ids=list(BAD))
def test_files_of_another_kind_are_refused(tmp_path, change):
    save(tmp_path, change)
    with pytest.raises(InputError, match=r"holds a damaged devices\.npz"):
        per_device.read(tmp_path)


def test_cut_and_changed_files_are_refused(tmp_path):
    save(tmp_path, {})
    path = tmp_path / per_device.NAME
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError):
            per_device.read(tmp_path)


def test_promised_sizes_are_not_believed(tmp_path):
    """A header of 8 EB over a few bytes, and an archive that unpacks to 5 GB."""
    save(tmp_path, {})
    path = tmp_path / per_device.NAME
    header = io.BytesIO()
    shape = {"descr": "<i8", "fortran_order": False, "shape": (10**9, 10**9)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("classes.npy", header.getvalue())
    with pytest.raises(InputError):
        per_device.read(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("classes.npy", b"0")
        archive.infolist()[0].file_size = 5 * 2**30
    with pytest.raises(InputError):
        per_device.read(tmp_path)
