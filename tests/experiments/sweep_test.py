"""A sweep from outside: a user's command, folder and mistakes."""

import json
import math
import pathlib

import forked
import numpy as np
import pytest

from experiments import members, sweep_report
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--num_teams=2",
    "--devices_per_team=2",
    "--num_rounds=3",
    "--team_steps=2",
    "--device_steps=2",
    "--batch_size=8",
)
SWEEP = ("--seeds=0,7", "--grid=device_lr=0.01,0.1")


def call(module, *flags):
    return forked.run(f"experiments.{module}", *SMALL, *flags, JAX_NUM_CPU_DEVICES="1")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "folder"
    done = call("sweep", *SWEEP, "--compare", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_sweep_leaves_everything_it_promises(finished):
    folder, done = finished
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.json",
        "partition.npz",
        "sweep.jsonl",
        "summary.json",
        "sweep.png",
    }
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())
    assert config["flags"]["seeds"] == [0, 7]
    assert config["flags"]["grid"] == {"device_lr": [0.01, 0.1]}
    assert "4 members in one program on 1 CPU core, " in done.stderr
    assert " MB planned on each" in done.stderr
    cost = json.loads((folder / "summary.json").read_text())["cost"]
    assert cost["pairs"] >= 3
    assert 0 < cost["min"] <= cost["median"] <= cost["max"]
    assert f"one member alone: {cost['median']:.3g} (" in done.stdout


def test_each_evaluation_has_a_row_for_each_member(finished):
    found = rows(finished[0] / "sweep.jsonl")
    assert [(row["round"], row["member"]) for row in found] == [
        (round_, member) for round_ in (1, 2, 3) for member in range(4)
    ]
    assert [(row["seed"], row["hparams"]["device_lr"]) for row in found[:4]] == [
        (0, 0.01),
        (0, 0.1),
        (7, 0.01),
        (7, 0.1),
    ]


def test_a_member_of_the_seed_of_the_data_is_the_run_of_train(finished, tmp_path):
    done = call(
        "train",
        "--hparam=device_lr=0.1",
        "--nolocal_floor",
        f"--workdir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    alone = rows(tmp_path / "run" / "metrics.jsonl")
    own = [row for row in rows(finished[0] / "sweep.jsonl") if row["member"] == 1]
    for ours, theirs in zip(own, alone, strict=True):
        assert ours.keys() == theirs.keys() | {"member", "seed", "hparams"}
        for name in theirs.keys() - {"seconds"}:
            # In float32, a sample in doubt may fall on either side.
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=5e-3), name


def test_the_best_member_is_chosen_by_validation(finished):
    folder, done = finished
    summary = json.loads((folder / "summary.json").read_text())
    last = rows(folder / "sweep.jsonl")[-4:]
    assert [member["last"] for member in summary["members"]] == last
    for label in ("PM", "TM", "GM"):
        scores = [row[f"{label}/validation/accuracy"] for row in last]
        assert summary["best_by_validation"][label] == int(np.argmax(scores))
    table = done.stdout.splitlines()
    shown = [float(line.split()[2].rstrip("%")) for line in table[2:6]]
    assert shown == sorted(shown, reverse=True)


def test_the_same_command_again_shows_the_finished_sweep(finished):
    folder, done = finished
    again = call("sweep", *SWEEP, f"--workdir={folder}")
    assert again.returncode == 0
    assert "already holds this sweep" in again.stdout
    assert done.stdout[: done.stdout.index("results:")] in again.stdout
    other = call("sweep", "--seeds=0", f"--workdir={folder}")
    assert_one_sentence(other, "holds a different run (differing: grid, seeds)")


def test_a_diverged_member_is_reported_and_the_others_finish(tmp_path):
    folder = tmp_path / "run"
    grid = ("--grid=device_lr=0.1,1e30", "--grid=team_lr=0.1,0.2")
    done = call("sweep", *grid, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    diverged = ["diverged" in member for member in summary["members"]]
    assert diverged == [False, False, True, True]
    assert summary["best_by_validation"]["PM"] in (0, 1)
    table = done.stdout.splitlines()
    assert [" Round 1 diverged: " in line for line in table[2:6]] == diverged
    assert all("device model" in line and "%" not in line for line in table[4:6])
    assert (folder / "sweep.png").exists()


def test_it_fails_when_all_diverge(tmp_path):
    folder = tmp_path / "run"
    done = call("sweep", "--grid=device_lr=1e29,1e30", f"--workdir={folder}")
    assert_one_sentence(done, "all 2 members diverged; the first one: Round 1 ")
    assert len(rows(folder / "sweep.jsonl")) == 2
    assert not (folder / "summary.json").exists()


def test_models_are_adapted_with_the_numbers_of_their_member(tmp_path):
    flags = ("--devices_per_round=1", "--nokeep_personal", "--eval_every=3")
    done = call("sweep", *SWEEP, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "run" / "sweep.jsonl")
    assert len({row["PM_adapted/loss"] for row in found}) == 4
    alone = ("--hparam=device_lr=0.1", "--nolocal_floor")
    done = call("train", *alone, *flags, f"--workdir={tmp_path / 'alone'}")
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "alone" / "metrics.jsonl")
    assert found[1]["PM_adapted/loss"] == pytest.approx(
        row["PM_adapted/loss"], rel=1e-5
    )


BAD = [
    (["--grid=device_rate=1"], ["no hyper-parameter 'device_rate'", "device_lr"]),
    (["--grid=device_lr"], ["--grid=device_lr must read --grid=name=value"]),
    (["--grid=device_lr=fast"], ["--grid=device_lr=fast must list finite numbers"]),
    (["--grid=device_lr="], ["--grid=device_lr= must list finite numbers"]),
    (["--grid=device_lr=1,,2"], ["must list finite numbers"]),
    (["--grid=device_lr=nan"], ["must list finite numbers"]),
    (["--grid=device_lr=0.1,1e-1"], ["gives 0.1 twice"]),
    (["--grid=device_lr=-1"], ["device_lr must be above 0, got -1"]),
    (
        ["--grid=device_lr=1", "--grid=device_lr=2"],
        ["--grid=device_lr=2: device_lr is given twice"],
    ),
    (["--seeds="], ["--seeds= must list whole numbers"]),
    (["--seeds=0,1.5"], ["--seeds=0,1.5 must list whole numbers"]),
    (["--seeds=-1"], ["--seeds=-1 must list whole numbers"]),
    (["--seeds=3,4,3"], ["--seeds=3,4,3 gives 3 twice"]),
    (["--validation_fraction=0"], ["--validation_fraction=0"]),
    (["--distributed"], ["without --distributed"]),
    (["--hparam=device_rate=1"], ["--hparam=device_rate=1"]),
    (["extra"], ["unexpected argument 'extra'"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_mistakes_get_one_sentence(flags, words, tmp_path):
    done = call("sweep", f"--workdir={tmp_path / 'run'}", *flags)
    assert_one_sentence(done, *words)


def test_help_says_what_seeds_do_not_vary():
    done = call("sweep", "--help")
    text = " ".join(done.stdout.split())
    for word in ("--seeds", "--grid", "--compare", "--num_rounds", "Data, its split"):
        assert word in text


def test_members_are_the_product_and_the_grid_replaces_hparam():
    method = ALGORITHMS["permfl"].hparams
    found = members.members(
        method,
        ["device_lr=0.7", "team_prox=2"],
        ["5", "1"],
        ["device_lr=0.1,0.2", "team_lr=3"],
    )
    assert len(found) == 4
    assert found.seeds == (5, 1)
    assert found.settings == (
        {"device_lr": 0.1, "team_lr": 3.0},
        {"device_lr": 0.2, "team_lr": 3.0},
    )
    assert found.hparams[1] == method(device_lr=0.2, team_lr=3.0, team_prox=2.0)
    assert [(m["member"], m["seed"]) for m in found.describe()] == [
        (0, 5),
        (1, 5),
        (2, 1),
        (3, 1),
    ]
    assert members.members(method, [], ["0"], []).settings == ({},)
    with pytest.raises(InputError, match="at least 0"):
        members.members(method, ["team_prox=-1"], ["0"], [])


def test_a_heat_map_shows_means_over_seeds_and_leaves_out_what_diverged():
    name = "PM/validation/accuracy"
    found = [
        {"hparams": {"a": a, "b": b}, "last": {name: value}}
        for a, b, value in [(1, 5, 0.2), (1, 5, 0.4), (1, 6, 0.5), (2, 5, 0.6)]
    ]
    found.append({"hparams": {"a": 2, "b": 6}, "diverged": "Round 1"})
    heat = sweep_report.heat(found, {"a": (1, 2), "b": (5, 6)}, "PM")
    np.testing.assert_allclose(heat[0], [0.3, 0.5])
    assert heat[1, 0] == 0.6
    assert math.isnan(heat[1, 1])


def assert_one_sentence(done, *words):
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if line.strip() and not line.startswith("plan: ")
    ]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]
