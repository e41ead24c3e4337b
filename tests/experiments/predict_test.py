"""The models of a finished run, applied: against the run's own numbers, and refused."""

import csv
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, predict, reopen, train
from permfl_jax import deploy
from permfl_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--num_teams=2",
    "--devices_per_team=2,3",
    "--num_rounds=3",
    "--team_steps=2",
    "--device_steps=3",
    "--batch_size=8",
    "--hparam=device_lr=0.05",
    "--hparam=device_prox=1",
    "--nolocal_floor",
)
HIERARCHY = ("--hparam=team_lr=0.3", "--hparam=server_lr=1", "--hparam=team_prox=1")


def trained(folder, *given):
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *SMALL, f"--workdir={folder}", *given])
        train.run(config.from_flags(flags.FLAGS))
    return folder


def ask(folder, *given):
    with flagsaver.flagsaver():
        flags.FLAGS(["predict", f"--workdir={folder}", *map(str, given)])
        predict.run(flags.FLAGS)


def refused(folder, words, *given):
    with pytest.raises(InputError, match=words) as error:
        ask(folder, *given)
    assert "\n" not in str(error.value)


def last_row(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("finished") / "run", *HIERARCHY)


@pytest.fixture(scope="module")
def adapting(tmp_path_factory):
    """A run that keeps no device's model."""
    folder = tmp_path_factory.mktemp("adapting") / "run"
    return trained(folder, *HIERARCHY, "--nokeep_personal")


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return trained(
        tmp_path_factory.mktemp("flat") / "run", "--algorithm=fedprox", "--num_rounds=1"
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    settings = [flag for flag in SMALL if "prox" not in flag]
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *settings, "--algorithm=local", f"--workdir={folder}"])
        train.run(config.from_flags(flags.FLAGS))
    return folder


def right(found, name):
    samples = found.own_samples(name)
    logits = deploy.predict(found.apply, found.model("--model_of", name), samples.x)
    return np.array([(logits.argmax(axis=1) == samples.y).sum(), len(samples.y)])


def test_predictions_give_the_accuracies_of_the_run(finished):
    found, row = reopen.read(str(finished)), last_row(finished)
    for label, names in {
        "PM": [f"device:{n}" for n in range(5)],
        "TM": ["team:0", "team:1"],
        "GM": ["server"],
    }.items():
        good, count = sum(right(found, name) for name in names)
        assert good / count == pytest.approx(row[f"{label}/accuracy"], rel=1e-12)
        assert count == right(found, "server")[1]


@pytest.mark.parametrize("kind", ["device", "adapted"])
def test_devices_that_are_not_kept_are_adapted(adapting, kind):
    found, row = reopen.read(str(adapting)), last_row(adapting)
    good, count = sum(right(found, f"{kind}:{n}") for n in range(5))
    assert good / count == pytest.approx(row["PM_adapted/accuracy"], rel=1e-12)


def test_a_new_device_with_the_samples_of_device_0_is_device_0(adapting):
    found = reopen.read(str(adapting))
    federation = found.built.federation
    row = int(np.argmax(np.asarray(federation.identity) == 0))
    first, count = (
        int(x[row]) for x in (federation.train.start, federation.train.count)
    )
    own = predict.SampleSet(
        *(np.asarray(federation.train.pool[k])[first : first + count] for k in "xy")
    )
    start, _ = found.start(f"team:{int(federation.team[row])}")
    made, expected = found.personalised(start, own), found.model("", "adapted:0")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
        made,
        expected,
    )


def samples_file(path, found, rows, **changed):
    pool = found.built.federation.train.pool
    arrays = {name: np.asarray(pool[name])[rows] for name in "xy"} | changed
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def accuracies(text):
    return [float(number) for number in re.findall(r"accuracy ([\d.]+)", text)]


def test_a_new_device_and_a_new_team_learn(finished, tmp_path, capsys):
    found = reopen.read(str(finished))
    one = samples_file(tmp_path / "one.npz", found, np.arange(20))
    two = samples_file(tmp_path / "two.npz", found, np.arange(20, 40))
    ask(finished, f"--personalise={one}", "--from=team:0", "--personal_steps=200")
    before, after = accuracies(capsys.readouterr().out)
    assert after > before
    saved = tmp_path / "team.npz"
    ask(finished, f"--new_team={one},{two}", f"--input={two}", f"--save_model={saved}")
    out = capsys.readouterr().out
    assert "server: accuracy" in out
    assert "new team of 2: accuracy" in out
    expected = found.new_team(
        [predict.sample_files.read("", str(p), found.form) for p in (one, two)]
    ).team
    with np.load(saved, allow_pickle=False) as arrays:
        for name, value in deploy.named(expected).items():
            np.testing.assert_array_equal(arrays[name], value)
    ask(finished, f"--new_team={one},{two}", f"--personalise={one}", f"--input={two}")
    assert "new team of 2: accuracy" in capsys.readouterr().out


def test_predictions_are_written_as_table_and_arrays(finished, tmp_path):
    found = reopen.read(str(finished))
    given = samples_file(tmp_path / "given.npz", found, np.arange(7), y=None)
    for name in ("out.csv", "out.npz"):
        ask(
            finished,
            "--model_of=team:1",
            f"--input={given}",
            f"--predictions={tmp_path / name}",
        )
    x = np.asarray(found.built.federation.train.pool["x"])[:7]
    logits = deploy.predict(found.apply, found.model("", "team:1"), x)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"label", "probability"}
        np.testing.assert_allclose(arrays["probability"], expected, rtol=1e-6)
        np.testing.assert_array_equal(arrays["label"], expected.argmax(axis=1))
    with open(tmp_path / "out.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["label"]) for row in table] == expected.argmax(axis=1).tolist()
    for c in range(10):
        column = [float(row[f"probability_{c}"]) for row in table]
        np.testing.assert_allclose(column, expected[:, c], rtol=1e-6)


def test_without_teams_a_new_device_starts_from_the_global_model(
    flat, tmp_path, capsys
):
    found = reopen.read(str(flat))
    one = samples_file(tmp_path / "one.npz", found, np.arange(20))
    ask(flat, f"--personalise={one}", "--from=team:1")
    assert "server (there are no team models): accuracy" in capsys.readouterr().out
    refused(flat, "fedprox has no team models", "--model_of=team:0")
    refused(flat, "which --algorithm=fedprox has not", f"--new_team={one}")


def test_devices_alone_have_nothing_for_newcomers(alone, tmp_path, capsys):
    ask(alone, "--model_of=device:1")
    assert accuracies(capsys.readouterr().out)
    one = samples_file(tmp_path / "one.npz", reopen.read(str(alone)), np.arange(9))
    refused(alone, "neither team models nor a global", f"--personalise={one}")
    refused(alone, "local has no global model", "--model_of=server")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["--model_of=device:5"],
            r"device:5 was given, but the run has devices 0 to 4",
        ),
        (["--model_of=team:2"], r"team:2 was given, but the run has teams 0 to 1"),
        (["--model_of=device:-1"], "must be device:N, adapted:N, team:N or server"),
        (["--model_of=adapted:1"], "has no models of devices that are adapted"),
        ([], "Give either --model_of"),
        (["--model_of=server", "--personalise=x.npz"], "both of them were given"),
        (["--personalise=x.npz", "--from=device:0"], "must be team:N or server"),
        (["--model_of=server", "--from=team:0"], "goes with --personalise alone"),
        (["--model_of=server", "--predictions=x.txt"], "must end in .npz or .csv"),
        (["--model_of=server", "--save_model=x"], "must end in .npz"),
        (["--personalise=x.npz", "--personal_steps=0"], "must be at least 1"),
        (["--model_of=server", "--input=no.npz"], "cannot be read: No such file"),
        (["--model_of=server", f"--input={ROOT}"], "cannot be read: Is a directory"),
        (["--model_of=server", "--predictions=/dev/null/x.csv"], "cannot be written"),
    ],
)
def test_mistakes_end_in_one_sentence(finished, given, words):
    refused(finished, words, *given)


X = np.ones((3, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": X}, r"holds no array x \(it has: z\)"),
        ({"x": X}, "holds no array y"),
        ({"x": X[:, :7], "y": [0, 1, 2]}, r"of shape \(3, 7, .*needs \[n, "),
        ({"x": X[:0], "y": []}, "n at least 1"),
        ({"x": X / 16, "y": [0, 1, 2]}, "as float64, but the run's dataset has uint8"),
        ({"x": X.astype(int) * 300, "y": [0, 1, 2]}, "numbers that fit uint8"),
        ({"x": X, "y": [0, 1]}, r"integers of shape \(3,\) are needed"),
        ({"x": X, "y": [0.0, 1, 2]}, "y as float64"),
        ({"x": X, "y": [0, 1, 10]}, "labels y from 0 to 10, but the run's are 0 to 9"),
        ({"x": np.array([{}, {}]), "y": [0, 1]}, "pickled objects, which are not read"),
    ],
)
def test_samples_that_do_not_fit_are_refused(finished, tmp_path, arrays, words):
    form = reopen.read(str(finished)).form
    shaped = {
        k: v.reshape(len(v), *form.shape) if k == "x" and v.size == X.size else v
        for k, v in arrays.items()
    }
    np.savez(tmp_path / "given.npz", **shaped)
    refused(finished, words, f"--personalise={tmp_path / 'given.npz'}")


@pytest.mark.parametrize("damage", ["torn", "flipped", "text", "pickle", "claims"])
def test_files_that_are_damaged_are_refused(finished, tmp_path, damage):
    found = reopen.read(str(finished))
    path = samples_file(tmp_path / "given.npz", found, np.arange(30))
    content = bytearray(path.read_bytes())
    if damage == "torn":
        content = content[:-200]
    if damage == "flipped":
        content[400] ^= 1
    if damage == "text":
        content = b"x = 1"
    if damage == "pickle":
        content = b"\x80\x04\x95cos\nsystem\n."
    if damage == "claims":  # a header of more samples than there are
        content = bytes(content).replace(b"'shape': (30, ", b"'shape': (99, ")
    path.write_bytes(content)
    refused(finished, "it must be an .npz of plain arrays", f"--personalise={path}")


def test_folders_without_a_run_or_a_checkpoint_are_refused(finished, tmp_path):
    refused(tmp_path / "none", "holds no run", "--model_of=server")
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    refused(tmp_path, "without a whole checkpoint", "--model_of=server")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("team_sizes", "2", "damaged config.json: team_sizes is '2'"),
        ("seed", -1, "--seed must be 0 to"),
        ("seed", 1, "on other data"),
        ("model", "dnn", "of another model or version"),
        ("unheard_of", 1, "another version .*unheard_of"),
    ],
)
def test_a_config_that_was_changed_is_refused(finished, tmp_path, name, value, words):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(folder)], check=True)
    recorded = json.loads((folder / "config.json").read_text())
    recorded["flags"][name] = value
    (folder / "config.json").write_text(json.dumps(recorded))
    refused(folder, words, "--model_of=server")


def blocks(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```(bash|python|text)\n(.*?)^```$", text, re.M | re.S)


def test_following_the_page_works_also_without_this_package(tmp_path):
    if importlib.util.find_spec("flatbuffers") is None:
        pytest.skip("flatbuffers is not installed")
    given = os.environ.get("PYTHONPATH", "")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    ours = {"PYTHONPATH": os.pathsep.join([str(ROOT), given])}
    out = ""
    for language, text in blocks("deploy.md"):
        if language == "text":
            assert out.endswith(text)
            continue
        with_ours = language == "bash" or "permfl_jax" in text
        if not with_ours:
            text += "import sys\nassert 'permfl_jax' not in sys.modules\n"
        text = re.sub("^python", sys.executable, text, flags=re.M)
        shell = ["bash", "-e", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, text],
            cwd=tmp_path,
            env=environment | (ours if with_ours else {}),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        out = done.stdout
