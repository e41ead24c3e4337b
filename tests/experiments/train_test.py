"""The main job from outside: a user's command, folder and mistakes."""

import json
import os
import pathlib
import subprocess
import sys

import forked
import pytest

from permfl_jax import provenance, results
from permfl_jax.partitions import ownership

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--num_teams=2",
    "--devices_per_team=2",
    "--num_rounds=4",
    "--team_steps=2",
    "--device_steps=2",
    "--batch_size=8",
)


def train(*flags, **options):
    return forked.run("experiments.train", *flags, **options)


def started(*flags, cwd=ROOT):
    """As a user starts it."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "experiments.train", *flags],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def rows(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "nested" / "folder"
    done = started(*SMALL, "--eval_every=2", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_everything_it_promises(finished):
    folder, done = finished
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.json",
        "partition.npz",
        "devices.npz",
        "metrics.jsonl",
        "metrics.csv",
        "summary.json",
        "curves.png",
        "checkpoints",
        ".lock",
    }
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())
    assert config["flags"]["num_rounds"] == 4
    assert config["flags"]["team_sizes"] == [2, 2]
    assert config["versions"]["jax"]
    assert config["partition"]["samples_used"] > 0
    assert config["git_commit"] == provenance.git_commit()
    owned = results.read_partition(folder)
    assert ownership.digest(owned) == config["partition"]["sha256"]
    assert owned.team.tolist() == config["partition"]["team"]
    for word in ("PM", "TM", "GM", "each device alone", "majority label"):
        assert word in done.stdout


def test_metrics_have_one_object_per_evaluation(finished):
    folder, _ = finished
    assert [row["round"] for row in rows(folder)] == [2, 4]
    for row in rows(folder):
        for label in ("PM", "TM", "GM"):
            for name in ("accuracy", "train/accuracy", "validation/accuracy"):
                assert 0 <= row[f"{label}/{name}"] <= 1
            assert row[f"{label}/loss"] > 0


def test_the_summary_reports_the_last_round_and_the_best_by_validation(finished):
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    last = rows(folder)[-1]
    assert summary["last"] == last
    assert set(summary["best_by_validation"]) == {"PM", "TM", "GM"}
    for label, best in summary["best_by_validation"].items():
        chosen = max(rows(folder), key=lambda row: row[f"{label}/validation/accuracy"])
        assert best["accuracy"] == chosen[f"{label}/accuracy"]
    assert 0 < summary["floors"]["local/accuracy"] <= 1
    assert 0 < summary["floors"]["majority/accuracy"] <= 1


def test_the_same_command_again_shows_the_finished_run(finished):
    folder, done = finished
    before = (folder / "metrics.jsonl").read_bytes()
    again = train(*SMALL, "--eval_every=2", f"--workdir={folder}")
    assert again.returncode == 0
    assert "already holds this run" in again.stdout
    table = done.stdout[: done.stdout.index("results:")]
    assert table in again.stdout
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_different_run_is_refused_and_nothing_is_lost(finished):
    folder, _ = finished
    before = contents(folder)
    done = train(*SMALL, "--eval_every=2", "--seed=1", f"--workdir={folder}")
    assert_one_sentence(done, "holds a different run (differing: seed)")
    assert contents(folder) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_process_gives_the_same_bits(finished, tmp_path):
    folder, _ = finished
    done = train(*SMALL, "--eval_every=2", f"--workdir={tmp_path / 'again'}")
    assert done.returncode == 0, done.stderr
    for one, two in zip(rows(folder), rows(tmp_path / "again"), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_rounds_per_call_gives_the_same_rows(finished, tmp_path):
    folder, _ = finished
    flags = (*SMALL, "--eval_every=2", "--rounds_per_call=2", "--nolocal_floor")
    done = train(*flags, f"--workdir={tmp_path / 'scan'}")
    assert done.returncode == 0, done.stderr
    for one, two in zip(rows(folder), rows(tmp_path / "scan"), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


@pytest.mark.parametrize(
    "flags",
    [
        ("--dataset=synthetic", "--model=dnn", "--hidden=8,8", "--l2=0.01"),
        ("--algorithm=local",),
        ("--teams_per_round=1", "--devices_per_round=1", "--aggregate=stale_seen"),
        ("--devices_per_team=1,3", "--weights=samples", "--batch_size=0"),
        ("--team_formation=worst_case", "--batching=cyclic", "--model=cnn"),
    ],
    ids=lambda flags: flags[0],
)
def test_other_settings_run(flags, tmp_path):
    short = ("--num_rounds=2", "--nolocal_floor", f"--workdir={tmp_path / 'run'}")
    done = train(*SMALL, *flags, *short)
    assert done.returncode == 0, done.stderr
    assert [row["round"] for row in rows(tmp_path / "run")] == [1, 2]


def test_divergence_stops_the_run_and_keeps_what_was_measured(tmp_path):
    flags = ("--hparam=device_lr=1e6", "--device_steps=20", "--nolocal_floor")
    done = train(*SMALL, *flags, f"--workdir={tmp_path / 'run'}")
    assert_one_sentence(done, "Round 1 diverged: ", "device model")
    assert "warning: device_lr (α = 1e+06) will diverge" in done.stderr
    assert (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_without_personal_models_pm_is_adapted(tmp_path):
    done = train(*SMALL, "--nokeep_personal", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "personal, adapted now" in done.stdout
    assert "each device alone" not in done.stdout
    assert {"PM_adapted/accuracy", "GM/accuracy"} <= rows(tmp_path / "run")[-1].keys()


def test_real_mnist(shared_data, tmp_path):
    done = train(
        *SMALL,
        "--dataset=mnist",
        f"--manual_dir={shared_data}",
        f"--data_dir={tmp_path / 'data'}",
        f"--workdir={tmp_path / 'run'}",
        "--num_rounds=1",
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "run")) == 1


BAD = [
    (["--dataset=mnits"], ["mnits", "mnist"]),
    (["--model=resnet"], ["--model=resnet", "mclr"]),
    (["--algorithm=fedsgd"], ["--algorithm=fedsgd", "permfl"]),
    (["--partition=iid"], ["--partition=iid", "paper"]),
    (["--team_formation=kmeans"], ["--team_formation=kmeans", "random"]),
    (["--batching=random"], ["--batching", "shuffle"]),
    (["--weights=equal"], ["--weights", "uniform"]),
    (["--aggregate=all"], ["--aggregate", "participants"]),
    (["--test_fraction=0"], ["--test_fraction=0", "no device a test sample"]),
    (["--device_steps=99999999999"], ["--device_steps", "2147483647"]),
    (["--batch_size=99999999999"], ["--batch_size"]),
    (["--num_teams=99999999999"], ["--num_teams", "at most"]),
    (["--num_rounds=9999999", "--device_steps=9999"], ["--num_rounds", "2147483647"]),
    (["--model=dnn", "--hidden=99999999999"], ["--hidden"]),
    (["--hparam=device_lr=1e39"], ["--hparam=device_lr", "1e+30"]),
    (["--l2=1e300"], ["--l2"]),
    (["--dataset=synthetic", "--synthetic_alpha=1e308"], ["--synthetic_alpha"]),
    (["--data_dir=gs://bucket/x"], ["--data_dir=gs://bucket/x"]),
    (["--workdir={metrics}"], ["is not empty and holds no run"]),
    (["--workdir={odd}"], ["damaged config.json"]),
    (["--num_teams=0"], ["--num_teams", "at least 1"]),
    (["--num_teams=-3"], ["--num_teams", "at least 1"]),
    (["--devices_per_team=0"], ["--devices_per_team", "at least 1"]),
    (["--devices_per_team=2,4,8"], ["--devices_per_team", "3 sizes", "--num_teams=2"]),
    (["--devices_per_team=ten"], ["--devices_per_team", "whole numbers"]),
    (["--num_rounds=0"], ["--num_rounds", "at least 1"]),
    (["--team_steps=0"], ["--team_steps", "at least 1"]),
    (["--device_steps=-1"], ["--device_steps", "at least 1"]),
    (["--batch_size=-1"], ["--batch_size", "0 for all"]),
    (["--eval_every=0"], ["--eval_every", "at least 1"]),
    (["--rounds_per_call=3"], ["--rounds_per_call=3", "divide"]),
    (["--rounds_per_call=0"], ["--rounds_per_call", "at least 1"]),
    (["--seed=-1"], ["--seed"]),
    (["--l2=-0.1"], ["--l2"]),
    (["--l2=nan"], ["--l2"]),
    (["--teams_per_round=3"], ["--teams_per_round must be 1 to 2", "got 3"]),
    (["--teams_per_round=0"], ["--teams_per_round must be 1 to 2"]),
    (["--devices_per_round=5"], ["--devices_per_round must be 1 to 2", "got 5"]),
    (["--classes_per_device=11"], ["--classes_per_device", "10"]),
    (["--classes_per_device=0"], ["--classes_per_device"]),
    (["--devices_per_team=2000"], ["--devices_per_team"]),
    (["--validation_fraction=0.9"], ["--validation_fraction", "--test_fraction"]),
    (["--test_fraction=-0.1"], ["--test_fraction"]),
    (["--hparam=lambda=1"], ["--hparam=lambda=1", "device_prox"]),
    (["--hparam=device_lr"], ["--hparam=device_lr", "name=value"]),
    (["--hparam=device_lr=fast"], ["--hparam=device_lr=fast", "number"]),
    (["--hparam=device_lr=nan"], ["--hparam=device_lr=nan", "number"]),
    (["--hparam=device_lr=0"], ["--hparam=device_lr", "above 0"]),
    (["--hparam=team_prox=-1"], ["--hparam=team_prox", "at least 0"]),
    (["--algorithm=local", "--hparam=team_prox=1"], ["team_prox", "device_lr"]),
    (["--model=dnn", "--hidden=5,5,5"], ["--hidden", "one or two"]),
    (["--dataset=synthetic", "--model=cnn"], ["--model=cnn", "synthetic"]),
    (["--partition=natural"], ["--partition=natural"]),
    (
        ["--dataset=synthetic", "--team_formation=worst_case"],
        ["--team_formation=worst_case"],
    ),
    (["--partition=domains"], ["--partition=domains", "no groups"]),
    (["--dirichlet_alpha=0"], ["--dirichlet_alpha=0", "allowed"]),
    (["--team_alpha=nan"], ["--team_alpha=nan", "allowed"]),
    (["--device_alpha=-1"], ["--device_alpha=-1", "allowed"]),
    (["--quantity_sigma=-1"], ["--quantity_sigma=-1", "allowed"]),
    (["--text_features=0"], ["--text_features", "got 0"]),
    (["--min_samples=0"], ["--min_samples=0", "at least 1"]),
    (
        ["--partition=dirichlet", "--devices_per_team=1000"],
        ["2000 devices", "1797 samples", "--devices_per_team"],
    ),
    (["--dataset=synthetic", "--synthetic_alpha=-1"], ["--synthetic_alpha"]),
    (
        ["--dataset=mnist", "--manual_dir=/nonexistent", "--data_dir={tmp}/d"],
        ["--manual_dir=/nonexistent", "mnist"],
    ),
    (["--dataset=mnist", "--data_dir=/dev/null/data"], ["--data_dir=/dev/null/data"]),
    (["--workdir=/dev/null/run"], ["--workdir=/dev/null/run", "cannot be written"]),
    (["--workdir={foreign}"], ["is not empty and holds no run"]),
    (["--chips=99"], ["--chips=99", "there are"]),
    (["--chips=0"], ["--chips", "at least 1"]),
    (["--device_chunk=0"], ["--device_chunk", "at least 1"]),
    (["--precision=half"], ["--precision=half", "bfloat16"]),
    (["--algorithm=local", "--nokeep_personal"], ["--keep_personal", "local"]),
    (["--distributed", "--chips=1"], ["--chips=1", "--distributed"]),
    (["--distributed"], ["--distributed", "JAX_COORDINATOR_ADDRESS"]),
    (["extra"], ["unexpected argument 'extra'"]),
    (["--num_round=3"], ["unknown flag --num_round; did you mean --num_rounds?"]),
    (["--num_rounds=three"], ["--num_rounds=three"]),
    (["--flagfile=missing.flags"], ["missing.flags"]),
]


@pytest.mark.parametrize(
    ("flags", "words"), BAD, ids=[" ".join(flags) for flags, _ in BAD]
)
def test_mistakes_get_one_sentence(flags, words, tmp_path, monkeypatch):
    for scheme in ("http", "https"):  # nothing listens there: no network
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("precious")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "metrics.jsonl").write_text("precious")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"flags": ["a"]}')
    places = {name: tmp_path / name for name in ("foreign", "metrics", "odd")}
    flags = [f.format(tmp=tmp_path, **places) for f in flags]
    if not any(flag.startswith("--workdir") for flag in flags):
        flags = [f"--workdir={tmp_path / 'run'}", *flags]
    done = train(*SMALL, *flags)
    assert_one_sentence(done, *words)
    assert (tmp_path / "foreign" / "thesis.tex").read_text() == "precious"
    assert (tmp_path / "metrics" / "metrics.jsonl").read_text() == "precious"


def test_help_lists_the_flags():
    done = train("--help")
    for name in ("--num_rounds", "--hparam", "--team_formation", "--manual_dir"):
        assert name in done.stdout


def test_an_unfinished_run_says_that_it_starts_over(finished, tmp_path):
    folder, _ = finished
    again = tmp_path / "again"
    again.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (again / name).write_bytes((folder / name).read_bytes())
    done = train(*SMALL, "--eval_every=2", f"--workdir={again}")
    assert done.returncode == 0, done.stderr
    assert "starting over, no checkpoint: 2 evaluations replaced" in done.stderr
    assert len(rows(again)) == 2


def test_the_same_run_may_be_spelled_differently(finished, tmp_path):
    folder = tmp_path / "run"
    short = (*SMALL, "--nolocal_floor", f"--workdir={folder}")
    one = ("--hparam=device_lr=0.5", "--hparam=team_lr=0.1", "--hparam=device_lr=0.01")
    done = train(*short, *one)
    assert done.returncode == 0, done.stderr
    again = train(*short, "--hparam=team_lr=0.10", "--hparam=device_lr=1e-2")
    assert "already holds this run" in again.stdout, again.stderr


def assert_one_sentence(done, *words):
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if line.strip() and not line.startswith(("warning: ", "plan: ", "finding "))
    ]
    # absl adds where help is to be found.
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_compiled_programs_are_kept_for_the_next_start(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    flags = (*SMALL, "--nolocal_floor", f"--data_dir={tmp_path / 'data'}")
    done = started(*flags, f"--workdir={tmp_path / 'one'}")
    assert done.returncode == 0, done.stderr

    def kept():
        files = (tmp_path / "data" / "xla").glob("jit_advance-*-cache")
        return {path.name for path in files}

    before = kept()
    assert before
    assert started(*flags, f"--workdir={tmp_path / 'two'}").returncode == 0
    assert kept() == before
