"""The training program in two processes: one folder, one choice, one end."""

import fcntl
import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
from killing import _compare_bits, rows
from resuming import SMALL

from permfl_jax.partitions import ownership

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 240


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, index, port, *given):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XLA_FLAGS", "JAX_ENABLE"))
    }
    command = [sys.executable, "-m", "experiments.train", "--distributed", *SMALL]
    return subprocess.Popen(
        [*command, f"--workdir={folder}", *given],
        cwd=ROOT,
        env=environment
        | {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def both(folder, *given, second=()):
    """Exit status and errors of each; none is left behind.

    Args:
      folder: of the run.
      *given: flags.
      second: flags of the second process alone.
    """
    port, own = free_port(), ((), second)
    started = [start(folder, i, port, *given, *own[i]) for i in range(2)]
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in started]
        print(*errors, sep="\n===\n")
    finally:
        for process in started:
            process.kill()
            process.wait()
    if "cannot start" in errors[0] or "found no pod or cluster" in errors[0]:
        pytest.skip(f"jax.distributed cannot start here: {errors[0][-500:]}")
    return [process.returncode for process in started], errors


def test_two_processes_go_on_from_what_the_first_chooses(tmp_path):
    """Its folder's newest is damaged, which only the first looks at."""
    done, errors = both(tmp_path / "plain", "--num_rounds=4")
    assert done == [0, 0], errors
    done, errors = both(tmp_path / "run", "--num_rounds=3")
    assert done == [0, 0], errors
    (seal,) = (tmp_path / "run" / "checkpoints" / "3").glob("seal.json")
    seal.write_text("{}")
    done, errors = both(tmp_path / "run", "--num_rounds=4")
    assert done == [0, 0], errors
    assert "going on after round 2 of 4" in errors[0]
    assert rows(tmp_path / "run") == rows(tmp_path / "plain")
    _compare_bits(tmp_path / "plain", tmp_path / "run")


def test_a_mistake_that_only_the_first_sees_ends_both(tmp_path):
    """The folder is in use: the other must not wait for ever."""
    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, errors = both(folder, "--num_rounds=2")
    assert done[0] == 1
    assert "is in use by another process" in errors[0]


def test_a_changed_log_ends_both_and_costs_nothing(tmp_path):
    folder = tmp_path / "run"
    done, errors = both(folder, "--num_rounds=2")
    assert done == [0, 0], errors
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text().replace("0.", "0.9", 1))
    done, errors = both(folder, "--num_rounds=4")
    assert done[0] == 1
    assert done[1] != 0
    assert "is a whole checkpoint, but metrics.jsonl is not what it was" in errors[0]
    assert (folder / "checkpoints" / "2" / "seal.json").exists()


def test_teams_that_were_found_by_training_are_those_of_the_first(tmp_path):
    """On record are others than this machine would find: all go on with those."""
    folder = tmp_path / "run"
    given = ("--team_formation=update_cosine", "--checkpoint_every=1")
    done, errors = both(folder, *given, "--num_rounds=2")
    assert done == [0, 0], errors
    owned = ownership.load(folder / "partition.npz")
    swapped = owned._replace(team=owned.team[::-1].copy())
    assert swapped.team.tolist() != owned.team.tolist()
    config = json.loads((folder / "config.json").read_text())
    config["partition"] |= {
        "team": swapped.team.tolist(),
        "sha256": ownership.digest(swapped),
    }
    (folder / "config.json").write_text(json.dumps(config))
    done, errors = both(folder, *given, "--num_rounds=3")
    assert done == [0, 0], errors
    assert "going on after round 2 of 3" in errors[0]


def test_another_partition_in_one_process_ends_both(tmp_path):
    done, errors = both(tmp_path / "run", "--num_rounds=2", second=("--seed=1",))
    assert 0 not in done
    assert "process 1 has another partition than the first" in errors[1]
