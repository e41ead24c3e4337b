"""Every path of the benchmark on tiny federations; its figures are not asserted."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import pytest

from experiments import (
    benchmark,
    benchmark_report,
    machine,
    peers,
    roofline,
    timing,
    workloads,
)
from permfl_jax import algorithms
from permfl_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
CEILINGS = roofline.Ceilings(1e12, 1e11)
TINY = workloads.W1._replace(team_steps=1, device_steps=2).with_devices((2, 2), 70, 5)
ALONE = {
    "devices",
    "compile_seconds",
    "round_seconds",
    "device_steps_per_second",
    "device_step_us",
    "flops_per_second",
    "bytes_per_second",
    "floor_us",
    "floor_fraction",
    "predicted_bytes",
    "peak_bytes",
}


@pytest.fixture(autouse=True)
def tiny_and_quick(monkeypatch):
    """Workloads of four devices, and measurements of one call."""
    monkeypatch.setattr(benchmark, "FIXED", {"W1": TINY})
    monkeypatch.setattr(
        workloads, "W4", {n: TINY.with_devices((n // 2,) * 2, 9, 0) for n in (2, 4, 6)}
    )
    monkeypatch.setattr(workloads, "MANY", TINY)
    monkeypatch.setattr(workloads, "FEW_ACT", TINY._replace(devices_per_round=1))
    monkeypatch.setattr(workloads, "EVEN", TINY)
    monkeypatch.setattr(
        workloads, "RAGGED", {"teams": TINY._replace(team_sizes=(1, 3))}
    )
    monkeypatch.setattr(timing, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(roofline, "ceilings", lambda: CEILINGS)


def flags(**changes):
    values = {
        "workloads": ["W1"],
        "peer": False,
        "peers": list(peers.PEERS),
        "pairs": 1,
        "scale_devices": None,
        "precision": "float32",
        "json": None,
    }
    return types.SimpleNamespace(**values | changes)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the benchmark and gives what it wrote and what it printed."""
    monkeypatch.setattr(machine, "set_precision", lambda name: None)

    def go(**changes):
        path = tmp_path / "figures.json"
        benchmark.benchmark(flags(json=str(path), **changes))
        return json.loads(path.read_text()), capsys.readouterr().out

    return go


def test_ours_alone(run):
    figures, printed = run()
    assert figures.keys() == {"W1", "machine"}
    found = figures["W1"]
    assert found.keys() == ALONE
    cost = roofline.step_cost(TINY)
    step = found["device_step_us"] / 1e6
    assert found["floor_us"] / 1e6 == pytest.approx(cost.floor(CEILINGS))
    assert found["floor_fraction"] == pytest.approx(cost.floor(CEILINGS) / step)
    assert found["flops_per_second"] == pytest.approx(cost.flops / step)
    assert found["bytes_per_second"] == pytest.approx(cost.bytes / step)
    assert found["device_steps_per_second"] == pytest.approx(1 / step)
    assert found["round_seconds"] == pytest.approx(8 * step)
    assert figures["machine"]["flops_per_second"] == 1e12
    first, head, row = printed.splitlines()
    assert "1000 GFLOP/s" in first
    assert len(head.split("  ")) > len(benchmark_report.COLUMNS)
    assert row.split()[:2] == ["W1", "4"]


def test_peers_are_compared_round_by_round_and_in_evaluation(run):
    names = [n for n in peers.PEERS if importlib.util.find_spec("torch") or n[0] == "j"]
    figures, printed = run(peer=True, peers=names)
    expected = {*names, "pytorch_evaluation"} if "pytorch" in names else {*names}
    found = figures["W1"]
    assert found.keys() == ALONE | {"ratio", "spread"}
    assert found["ratio"].keys() == found["spread"].keys() == expected
    for name, spread in found["spread"].items():
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert found["ratio"][name] == spread["median"]
        assert f"W1 {name}: {spread['median']:.3g}" in printed


def test_a_peer_that_takes_twice_as_long_has_the_ratio_2(monkeypatch):
    ours = types.SimpleNamespace(
        workload=TINY, one_round=lambda: 1.0, evaluate=lambda: 1.0
    )
    slow = peers.Peer(lambda: 2.0, lambda: 3.0, list)
    monkeypatch.setitem(peers.PEERS, "pytorch", lambda *_: slow)
    monkeypatch.setattr(timing, "seconds", lambda call: call())
    found = benchmark.against(ours, ["pytorch"], 3)["ratio"]
    assert found == {"pytorch": 2.0, "pytorch_evaluation": 3.0}


def test_growth_is_the_last_size_over_the_second(run):
    figures, printed = run(workloads=["W4"])
    found = figures["W4"]
    assert found.keys() == {"2", "4", "6", "slope_6_over_4", "spread"}
    assert found["6"].keys() == ALONE
    assert found["slope_6_over_4"] > 0
    assert "W4/2" in printed
    assert "W4 slope_6_over_4: " in printed


def test_participation_sizes_and_compilation(run):
    figures, printed = run(workloads=["participation", "ragged"])
    assert figures["participation"]["ratio"].keys() == {"10_percent_over_full"}
    assert figures["ragged"]["ratio"].keys() == {"teams"}
    assert "ragged teams: " in printed


def test_compilation_of_a_round_and_of_a_larger_one(run, monkeypatch):
    monkeypatch.setattr(workloads, "W1", TINY._replace(device_steps=1))
    monkeypatch.setattr(workloads, "W2", TINY._replace(name="W2"))
    figures, printed = run(workloads=["compile"])
    assert figures["compile"].keys() == {"W1", "W1_doubled", "W2", "W2_doubled"}
    assert "compile W2_doubled: " in printed


def test_methods_are_compared_by_gradient(run, monkeypatch):
    """The same program called a method of two gradients costs half as much each."""
    permfl = algorithms.ALGORITHMS["permfl"]
    few = {"permfl": permfl, "twice": permfl._replace(gradients=2)}
    monkeypatch.setattr(algorithms, "ALGORITHMS", few)
    monkeypatch.setattr(timing, "seconds", lambda call: call() or 3.0)
    figures, printed = run(workloads=["methods"])
    assert figures["methods"]["ratio"] == {"permfl": 1.0, "twice": 0.5}
    assert "methods twice: 0.5" in printed


def test_devices_can_be_scaled(run):
    assert run(scale_devices=3)[0]["W1"]["devices"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"workloads": ["W1", "W9"]},
            "--workloads=W9 is unknown; choose from W1, W2, W3, W4, W5, "
            "participation, ragged, compile, methods.",
        ),
        (
            {"peers": ["tensorflow"]},
            "--peers=tensorflow is unknown; choose from pytorch, pytorch_lean, "
            "jax_loop, jax_scan.",
        ),
    ],
)
def test_unknown_names_are_refused(changes, message):
    with pytest.raises(InputError) as caught:
        benchmark.benchmark(flags(**changes))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["pytorch", "pytorch_lean"])
def test_without_torch_nothing_is_run_first(monkeypatch, name):
    for module in (name, "torch_models"):
        monkeypatch.delitem(sys.modules, f"experiments.peers.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(roofline, "ceilings", lambda: pytest.fail("was run"))
    with pytest.raises(InputError, match=r"pip install -e \.\[bench\]"):
        benchmark.benchmark(flags(peer=True, peers=["jax_loop", name]))


def test_a_mistake_ends_with_one_sentence():
    for argument, sentence in (
        ("--workloads=W9", "--workloads=W9 is unknown; choose from "),
        ("W1", "unexpected argument 'W1'; flags start with --."),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.benchmark", argument],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"experiments.benchmark: {sentence}")
        assert len(done.stderr.splitlines()) == 1
