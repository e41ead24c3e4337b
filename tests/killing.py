"""Runs that are killed at any moment, and what is compared afterwards.

One process imports everything and never starts JAX; each run is a fork of it, so that a
start costs what a run costs and not the imports.
"""

import json
import os
import pathlib
import random
import signal
import time
import traceback

import forked
import numpy as np

SMALL = (
    "--num_teams=2",
    "--devices_per_team=3",
    "--num_rounds=12",
    "--team_steps=2",
    "--device_steps=2",
    "--batch_size=8",
    "--eval_every=2",
    "--checkpoint_every=1",
    "--local_floor=false",
)


def start(arguments, log):
    """Forks a process that runs experiments.train; returns its number."""
    from experiments import train

    number = os.fork()
    if not number:
        forked.become(train.console, ["train", *arguments], [log, log])
    return number


def wait(number, seconds=None):
    """Exit status; negative for a signal; `None` if it still runs after `seconds`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(number, 0 if deadline is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def undisturbed(arguments, folder, log):
    """Seconds that a run takes which nothing stops."""
    begun = time.monotonic()
    code = wait(start([*arguments, f"--workdir={folder}"], log))
    assert code == 0, pathlib.Path(log).read_text()[-2000:]
    return time.monotonic() - begun


def killed(arguments, folder, log, kills, seconds, seed, signum=signal.SIGKILL):
    """A run that is killed so many times at random moments, and then left alone.

    Returns:
      How many kills met a run; the others came after it had finished.
    """
    chance, met = random.Random(seed), 0
    for _ in range(kills):
        number = start([*arguments, f"--workdir={folder}"], log)
        code = wait(number, chance.uniform(0, seconds))
        if code is None:
            os.kill(number, signum)
            code = wait(number)
            met += code != 0
        assert code in (0, -signum, 128 + signum), pathlib.Path(log).read_text()[-2000:]
        if code == 0:
            break
    undisturbed(arguments, folder, log)
    return met


def rows(folder):
    """metrics.jsonl but for the seconds, which a clock makes."""
    lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]


def compare(expected, folder):
    """Raises unless two finished runs have the same rows and the same bits."""
    assert rows(folder) == rows(expected)
    # In a fork, since reading starts JAX.
    number = os.fork()
    if not number:
        try:
            _compare_bits(expected, folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert wait(number) == 0, f"{folder} is not {expected}"


def _compare_bits(expected, folder):
    from permfl_jax import checkpoints

    before, after = (
        checkpoints.read(pathlib.Path(path) / "checkpoints")
        for path in (expected, folder)
    )
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for name, values in before[1].items():
        assert values.dtype == after[1][name].dtype, name
        assert values.tobytes() == after[1][name].tobytes(), name
        assert np.isfinite(values.astype(float)).all(), name
