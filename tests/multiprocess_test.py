"""Two processes with two chips each give what one process gives."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).with_name("multiprocess_program.py")
SECONDS = 240
EVERYONE, SOME = 0, 1  # the program's two runs: all devices act, or one of each team


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(processes, index, port, chips):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_NUM", "XLA_FLAGS", "JAX_ENABLE"))
    }
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, (processes, index, port, chips))],
        cwd=PROGRAM.parents[1],
        env=environment | {"PYTHONPATH": str(PROGRAM.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(processes, chips):
    """What each process printed; no process is left behind."""
    port = free_port()
    started = [start(processes, index, port, chips) for index in range(processes)]
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    lines = []
    for process, (output, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors[-4000:]
        lines.append(json.loads(output.splitlines()[-1]))
    for line in lines:
        if isinstance(line, dict):
            pytest.skip(f"jax.distributed cannot start here: {line['cannot start']}")
    return lines


@pytest.fixture(scope="module")
def together():
    return results(2, 2)


@pytest.fixture(scope="module")
def alone():
    return results(1, 4)[0]


@pytest.fixture(scope="module")
def one_chip():
    return results(1, 1)[0]


@pytest.mark.parametrize("run", [EVERYONE, SOME])
def test_each_process_loads_its_own_devices_alone(together, alone, run):
    # Team a, devices 1 3 5 7, is the first row; team b, 0 2 4 6, the second.
    own = [[1, 3, 5, 7], [0, 2, 4, 6]]
    with_test = [[1, 3, 5, 7], [0, 4, 6]]
    for process, result in enumerate(together):
        assert result[run]["mesh"] == [2, 2]
        assert result[run]["own"] == [2 * process, 2 * process + 1]
        train = [["train", d] for d in own[process]]
        test = [["test", d] for d in with_test[process]]
        assert result[run]["loaded"] == sorted(test + train)
    assert len(alone[run]["loaded"]) == 15


@pytest.mark.parametrize("run", [EVERYONE, SOME])
def test_all_processes_see_the_same(together, run):
    first, second = (
        {k: v for k, v in result[run].items() if k not in ("own", "loaded")}
        for result in together
    )
    assert first == second
    assert first["round"] == 3
    assert {name.split("/")[0] for name in first["row"]} == (
        {"PM", "TM", "GM"} | ({"PM_adapted"} if run == SOME else set())
    )


@pytest.mark.parametrize("run", [EVERYONE, SOME])
def test_two_processes_give_the_bits_of_one_with_as_many_chips(together, alone, run):
    """Sums over two chips have no order to differ in; those of losses are over four."""
    ours, theirs = together[0][run], alone[run]
    for name in ("mesh", "round", "server", "device", "row"):
        assert ours[name] == theirs[name], name
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-6)


@pytest.mark.parametrize("run", [EVERYONE, SOME])
def test_two_processes_give_what_one_chip_gives(together, one_chip, run):
    ours, theirs = together[0][run], one_chip[run]
    assert ours["row"].keys() == theirs["row"].keys()
    for name in ("server", "row"):
        for label, value in ours[name].items():
            np.testing.assert_allclose(
                value, theirs[name][label], rtol=1e-6, atol=1e-7, err_msg=label
            )
    for name in ("device", "losses"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-7)
