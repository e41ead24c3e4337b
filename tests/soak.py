"""Kills runs at random moments, for as long as wanted, and compares what they leave.

python tests/soak.py --kills=50 --algorithms=permfl,ditto
"""

import argparse
import os
import pathlib
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import killing

# One of each kind of state: none, personal, teams, controls, clusters, distributions.
FAMILIES = "permfl,fedavg,ditto,scaffold,ifca,al2gd,demlearn,pfedbayes,hsgd,pfedme"


def soak(name, kills, seed, folder):
    """One algorithm: a run left alone, and one killed `kills` times in all."""
    arguments = [*killing.SMALL, f"--algorithm={name}"]
    log, plain = folder / f"{name}.log", folder / f"{name}_plain"
    killing.undisturbed(arguments, folder / f"{name}_compile", log)
    seconds = killing.undisturbed(arguments, plain, log)
    met = runs = 0
    while met < kills:
        path = folder / f"{name}_{runs}"
        signum = signal.SIGTERM if runs % 4 == 3 else signal.SIGKILL
        met += killing.killed(
            arguments, path, log, kills - met, seconds, seed + runs, signum
        )
        killing.compare(plain, path)
        runs += 1
    return met, runs


def main():
    """Prints a line for each algorithm; ends at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each algorithm")
    parser.add_argument("--algorithms", default=FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/xla")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        for name in asked.algorithms.split(","):
            begun = time.monotonic()
            met, runs = soak(name, asked.kills, asked.seed, pathlib.Path(folder))
            print(
                f"{name}: {met} kills in {runs} runs, all equal to the bit "
                f"({time.monotonic() - begun:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
