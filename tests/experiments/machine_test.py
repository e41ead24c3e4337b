"""What programs ask of the machine, in processes of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments import machine
from permfl_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


def said(program, **environment):
    """What a fresh interpreter prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_NUM_CPU")}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from experiments import machine\nimport jax\n" + program,
        ],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_core_becomes_a_device():
    program = "machine.use_all_cores(); print(len(jax.devices()))"
    cores = len(os.sched_getaffinity(0))
    assert said(program) == [str(cores)]
    assert said(program, JAX_NUM_CPU_DEVICES="3") == ["3"]


def test_a_started_jax_is_left_as_it_is():
    program = "n = len(jax.devices()); machine.use_all_cores()\n"
    assert said(program + "print(len(jax.devices()) - n)") == ["0"]


@pytest.mark.parametrize("name", list(machine.PRECISIONS))
def test_precision_is_that_of_products(name):
    program = (
        f"machine.set_precision({name!r}); import jax.numpy as jnp\n"
        "x = jnp.ones((2, 2)); text = jax.jit(lambda x: x @ x).lower(x).as_text()\n"
        "print('HIGHEST' in text, 'HIGH' in text, (x @ x).dtype)"
    )
    highest = name == "float32"
    found = said(program)
    assert found[0] == str(highest)
    assert found[1] == str(name != "bfloat16")
    assert found[2] == "float32"


def test_unknown_precisions_are_refused():
    with pytest.raises(InputError) as caught:
        machine.set_precision("half")
    assert str(caught.value) == (
        "--precision=half is unknown; choose from float32, tf32, bfloat16."
    )


def test_a_single_process_agrees_with_itself():
    assert machine.agree(True) is True
    assert machine.agree(False) is False
