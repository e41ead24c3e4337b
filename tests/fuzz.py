"""Gives the programs broken and hostile input, and says what does not end well.

python tests/fuzz.py --cases=10000 --seed=0

Each case ends in success or in one sentence (InputError, DivergenceError), within 10
seconds and little memory, or it is printed, with the fewest steps that fail alike.
"""

import argparse
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Sizes of memory limits are those of small machines.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

from fuzzing import judging, running, surfaces  # noqa: E402


def main() -> int:
    """Prints a line for each surface, then each kind of failure once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="of all surfaces")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--surfaces", default=",".join(surfaces.SHARES), help="some of these"
    )
    parser.add_argument("--keep", type=pathlib.Path, help="folder for what fails")
    parser.add_argument("--replay", type=pathlib.Path, help="a file of --keep")
    asked = parser.parse_args()
    if asked.replay:
        return replay(asked.replay)
    names = asked.surfaces.split(",")
    whole, failures, counted = sum(surfaces.SHARES[name] for name in names), [], 0
    begun = time.monotonic()
    for name in names:
        since = time.monotonic()
        cases = -(-asked.cases * surfaces.SHARES[name] // whole)
        tally = running.run(name, surfaces.get(name), asked.seed, cases)
        ran = tally.passed + tally.refused + len(tally.failures)
        print(
            f"{name:12} {ran:6} cases: {tally.passed} passed, {tally.refused} refused, "
            f"{len(tally.failures)} FAILED; {time.monotonic() - since:.0f} s, slowest "
            f"{tally.slowest:.1f} s",
            flush=True,
        )
        counted += ran
        failures += tally.failures
    show(failures, asked.keep)
    print(
        f"{counted} cases in {time.monotonic() - begun:.0f} s: {len(failures)} failed"
    )
    return int(bool(failures))


def show(failures: list[running.Failure], keep: pathlib.Path | None) -> None:
    """Prints the smallest case of each kind of failure, and keeps it as a file."""
    kinds: dict[tuple[str, str], list[running.Failure]] = {}
    for each in failures:
        kinds.setdefault((each.surface, each.reason.splitlines()[-1]), []).append(each)
    for (surface, kind), alike in kinds.items():
        small = min(alike, key=lambda each: len(json.dumps(each.steps)))
        print(f"\n{surface}, {len(alike)} times: {kind}\n  case {small.number}")
        print(f"  steps: {json.dumps(small.steps)[:600]}")
        print("  " + "\n  ".join(small.reason.splitlines()[-8:]))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            content = {"surface": surface, "steps": small.steps, "reason": small.reason}
            path = keep / f"{surface}_{small.number}.json"
            path.write_text(json.dumps(content, indent=1))


def replay(path: pathlib.Path) -> int:
    """Carries out a kept case in this process, and prints how it ends."""
    import tempfile

    kept = json.loads(path.read_text())
    surface = surfaces.get(kept["surface"])
    with tempfile.TemporaryDirectory() as folder:
        where = pathlib.Path(folder)
        (where / "prepared").mkdir()
        world = surface.prepare(where / "prepared")
        verdict = judging.judge(surface, kept["steps"], world, where)
    print(verdict)
    return int(verdict not in ("passed", "refused"))


if __name__ == "__main__":
    sys.exit(main())
