"""Importing the library is light: in what it loads, and in seconds."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = ("tensorflow", "tensorflow_datasets", "orbax", "matplotlib", "scipy.cluster")
BELOW = "jax, flax"
OURS = ", ".join(
    f"permfl_jax.{name}"
    for name in ("algorithms", "assemble", "evaluate", "measure", "runner", "sweep")
)
REPEATS = 12


def fresh(program):
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def heavy_after(modules):
    program = f"import sys, {modules}\nprint(*({set(HEAVY)} & set(sys.modules)))"
    return set(fresh(program).split())


def seconds(modules):
    """Processor time, which other programs on this machine do not lengthen much."""
    program = f"import time; begun = time.process_time()\nimport {modules}\n"
    return float(fresh(program + "print(time.process_time() - begun)"))


def every_module():
    """All of the library's: also datasets and checkpoints, loaded when asked for."""
    for path in sorted((ROOT / "permfl_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__")


def test_no_module_loads_what_only_some_runs_need():
    # flax may import orbax by itself; then it is flax's.
    modules = ", ".join(every_module())
    assert len(modules) > 1000
    assert heavy_after(modules) <= heavy_after("jax, flax, flax.linen")


def test_the_check_sees_what_is_loaded():
    assert heavy_after("permfl_jax, matplotlib") >= {"matplotlib"}


def test_an_import_takes_less_than_half_again_of_jax_and_flax():
    below = ours = float("inf")
    # What the machine adds differs from start to start; the least has least of it.
    for _ in range(REPEATS):
        below, ours = min(below, seconds(BELOW)), min(ours, seconds(OURS))
        print(f"{ours:.2f} s over {below:.2f} s: {ours / below:.2f}")
        if ours < 1.5 * below:
            return
    raise AssertionError(f"never less than {ours / below:.2f} in {REPEATS} times")
