"""Strict numerics for every test; programs started by tests run as users run them."""

import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")
# Four chips for the tests of meshes; what is not placed on a mesh runs on the first.
jax.config.update("jax_num_cpu_devices", 4)

SHARED_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real raw data, or a skip that says why."""
    if not (SHARED_DATA / "mnist").is_dir():
        pytest.skip(f"real MNIST files are not at {SHARED_DATA}/mnist")
    return SHARED_DATA
