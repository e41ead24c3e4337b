"""Strict numerics for every test, and quick compilations."""

import itertools
import os
import pathlib
import sys

# Tests compile thousands of small programs once: half of the time is LLVM's, polishing.
# Before JAX reads it; programs that tests start have it too.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import jax
import pytest

from experiments import machine

sys.path.insert(0, str(pathlib.Path(__file__).parent))

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")
# Four chips for the tests of meshes; what is not placed on a mesh runs on the first.
jax.config.update("jax_num_cpu_devices", 4)

_TESTS_BETWEEN_LOOKS = 10
_tests = itertools.count(1)


def pytest_addoption(parser):
    """`--thorough`: also the cases that others stand for."""
    parser.addoption("--thorough", action="store_true", help="also cases marked so")


def pytest_collection_modifyitems(config, items):
    """Leaves out what is marked thorough; pytest says how many."""
    if config.getoption("--thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _few_programs():
    """Thousands of programs in one process end in a segmentation fault."""
    yield
    if next(_tests) % _TESTS_BETWEEN_LOOKS == 0:
        machine.forget_programs()


SHARED_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real raw data, or a skip that says why."""
    if not (SHARED_DATA / "mnist").is_dir():
        pytest.skip(f"real MNIST files are not at {SHARED_DATA}/mnist")
    return SHARED_DATA
