"""A run goes on from where it was stopped, and nothing is lost or told twice."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import thoroughly
from killing import rows
from resuming import run, same, stop_after, stopped_at

from experiments import reopen, session
from permfl_jax import checkpoints, probes, results
from permfl_jax.errors import DivergenceError, InputError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(folder)
    return folder


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("rounds", [1, 4])
def test_a_signal_saves_and_says_how_to_go_on(
    plain, tmp_path, monkeypatch, capsys, rounds, signum
):
    with monkeypatch.context() as patched:
        stop_after(patched, rounds, signum)
        with pytest.raises(
            session.StoppedError,
            match=f"stopped by {signum.name} after round {rounds}, which is saved; the "
            "same command goes on from there",
        ) as stopped:
            run(tmp_path / "run", "--checkpoint_every=5")
    assert stopped.value.signum == signum
    assert not (tmp_path / "run" / "summary.json").exists()
    run(tmp_path / "run", "--checkpoint_every=5")
    assert f"going on after round {rounds} of 6" in capsys.readouterr().err
    same(plain, tmp_path / "run")


@pytest.mark.parametrize(
    "given",
    [
        "--algorithm=ditto",
        "--algorithm=scaffold",
        "--algorithm=pfedbayes",
        "--algorithm=demlearn",
        "--algorithm=al2gd",
        "--algorithm=ifca",
        "--aggregate=stale",
        "--chips=2",
        "--device_upload=int8 --team_upload=topk:0.1 --team_loss=0.3 --aggregate=stale",
        "--algorithm=pfedme --device_upload=topk:0.1 --device_loss=0.3",
    ],
)
def test_every_kind_of_state_goes_on_to_the_bit(given, tmp_path, monkeypatch):
    some = (*given.split(), "--teams_per_round=1", "--devices_per_round=1")
    run(tmp_path / "plain", *some)
    stopped_at(monkeypatch, tmp_path / "run", 3, *some)
    run(tmp_path / "run", *some)
    same(tmp_path / "plain", tmp_path / "run")


def test_teams_that_were_found_by_training_stay(tmp_path, monkeypatch):
    """Another machine rounds otherwise, and might find others."""
    given = "--team_formation=update_cosine"
    run(tmp_path / "plain", given)
    stopped_at(monkeypatch, tmp_path / "run", 3, given)
    monkeypatch.delattr(probes.Probe, "look")
    run(tmp_path / "run", given)
    same(tmp_path / "plain", tmp_path / "run")
    reopen.read(str(tmp_path / "run"))


def test_rows_after_the_checkpoint_are_made_again_once(plain, tmp_path, monkeypatch):
    """Killed after a row and before the next save; the last line is torn."""
    stopped_at(monkeypatch, tmp_path / "run", 3, "--checkpoint_every=5")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"round": 4, "PM/accuracy": 0.0}) + '\n{"round": 6, "P')
    run(tmp_path / "run", "--checkpoint_every=5")
    same(plain, tmp_path / "run")


def test_a_damaged_checkpoint_sends_back_to_the_one_before(
    plain, tmp_path, monkeypatch, capsys
):
    stopped_at(monkeypatch, tmp_path / "run", 4)
    folder = tmp_path / "run" / "checkpoints"
    (large, *_) = sorted((folder / "4").rglob("d/*"), key=lambda p: -p.stat().st_size)
    content = bytearray(large.read_bytes())
    content[len(content) // 2] ^= 1
    large.write_bytes(content)
    run(tmp_path / "run")
    told = capsys.readouterr().err
    assert "the checkpoint of round 4 has a damaged file: not used" in told
    assert "going on after round 3 of 6" in told
    same(plain, tmp_path / "run")


def test_without_any_checkpoint_it_starts_over(plain, tmp_path, monkeypatch, capsys):
    stopped_at(monkeypatch, tmp_path / "run", 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run(tmp_path / "run")
    assert "starting over, no checkpoint: 2 evaluations" in capsys.readouterr().err
    same(plain, tmp_path / "run")


@pytest.mark.parametrize("stop", [None, 3])
def test_the_number_of_rounds_may_grow_and_not_shrink(
    plain, tmp_path, monkeypatch, stop, capsys
):
    """A row that the longer run would not have goes: round 3, of eval_every 2."""
    if stop:
        stopped_at(monkeypatch, tmp_path / "run", 2)
    else:
        run(tmp_path / "run", rounds=3)
        assert [row["round"] for row in rows(tmp_path / "run")] == [2, 3]
    run(tmp_path / "run")
    same(plain, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["flags"]["num_rounds"] == 6
    with pytest.raises(InputError, match=r"different run \(differing: num_rounds\)"):
        run(tmp_path / "run", rounds=5)


def test_other_flags_are_refused_by_name(tmp_path, monkeypatch):
    stopped_at(monkeypatch, tmp_path / "run", 2)
    with pytest.raises(InputError, match=r"differing: batch_size, num_rounds, seed\)"):
        run(tmp_path / "run", "--seed=1", "--batch_size=9", rounds=8)


def test_two_runs_in_one_folder_are_kept_apart(tmp_path):
    folder = results.Workdir(tmp_path / "run", {})
    program = (
        "from permfl_jax.results import Workdir\n"
        f"with Workdir({str(tmp_path / 'run')!r}, {{}}).locked(): pass"
    )
    command = [sys.executable, "-c", program]
    with folder.locked():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "is in use by another process; wait for it, or choose" in done.stderr
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_divergence_keeps_the_last_finite_checkpoint(tmp_path):
    bad = "--hparam=device_lr=1e30"
    with pytest.raises(DivergenceError, match=r"Round 1 diverged: device model \(4, "):
        run(tmp_path / "none", bad)
    assert checkpoints.Checkpoints(tmp_path / "none" / "checkpoints").rounds() == []
    slow = ("--hparam=device_lr=1000", "--l2=1")
    with pytest.raises(DivergenceError, match=r"Round \d+ diverged") as told:
        run(tmp_path / "run", *slow, rounds=100)
    named = int(str(told.value).split()[1])
    kept, arrays = checkpoints.read(tmp_path / "run" / "checkpoints")
    assert kept == named - 1
    assert kept > 1
    # Also where no save was due: it is computed again.
    with pytest.raises(DivergenceError, match=rf"Round {named} diverged"):
        run(tmp_path / "late", *slow, "--checkpoint_every=100", rounds=100)
    late, again = checkpoints.read(tmp_path / "late" / "checkpoints")
    assert late == kept
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    assert all(np.isfinite(x).all() for x in arrays.values())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("a tmpfs cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_in_one_sentence_and_loses_nothing(
    plain, small_disk, monkeypatch
):
    stopped_at(monkeypatch, small_disk / "run", 2)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - 40_000))
    with pytest.raises(
        InputError, match=r"cannot be written .*(full|No space)"
    ) as told:
        run(small_disk / "run")
    assert "\n" not in str(told.value)
    (small_disk / "filler").unlink()
    run(small_disk / "run")
    same(plain, small_disk / "run")


def test_checkpoints_must_fall_between_calls(tmp_path):
    with pytest.raises(InputError, match="--checkpoint_every=3 must be a multiple of"):
        run(tmp_path / "a", "--checkpoint_every=3", "--rounds_per_call=2")
    with pytest.raises(InputError, match="--checkpoint_every must be"):
        run(tmp_path / "b", "--checkpoint_every=0")
    with pytest.raises(InputError, match="--keep must be at least 2"):
        run(tmp_path / "c", "--keep=1")


@pytest.mark.parametrize(
    "name", thoroughly.cases(["permfl", "scaffold"], lambda name: name == "scaffold")
)
def test_kills_at_random_moments_leave_the_same_bits(name):
    """The long form: python tests/soak.py --kills=50."""
    done = subprocess.run(
        [sys.executable, "tests/soak.py", "--kills=4", f"--algorithms={name}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("all equal to the bit") == 1
