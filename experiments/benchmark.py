"""What a global round costs, how far from the machine's limits, and against others.

    python -m experiments.benchmark [--workloads=W1,W3] [--peer] [--json=FILE]

For each of the issue's workloads W1 to W5: compile time, steady time, FLOP/s and
bytes/s, the fraction of the roofline floor (`experiments.roofline`) and memory. With
`--peer`, the same rounds by PyTorch and by a JAX loop over devices
(`experiments.peers`). `participation`, `ragged` and `compile` show what absent devices,
unequal sizes and larger federations cost; `methods`, what a gradient of each method
costs beside one of PerMFL.

Every ratio is a median over pairs measured in turn in this process.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

from permfl_jax import algorithms
from permfl_jax.errors import InputError

from . import machine, peers, program, roofline, timing, workloads
from .benchmark_report import Figures, report

FIXED = {w.name: w for w in (workloads.W1, workloads.W2, workloads.W3, workloads.W5)}
NAMES = ("W1", "W2", "W3", "W4", "W5", "participation", "ragged", "compile", "methods")

flags.DEFINE_list("workloads", list(NAMES), "Which to run.")
flags.DEFINE_boolean("peer", False, "Also run the peers, on W1, W2, W3 and W5.")
flags.DEFINE_list("peers", list(peers.PEERS), "Which peers --peer runs.")
flags.DEFINE_integer("pairs", 5, "Pairs per ratio.", lower_bound=1)
flags.DEFINE_integer(
    "scale_devices", None, "Run W1, W2, W3, W5 with so many devices.", lower_bound=1
)
flags.DEFINE_string("json", None, "Also write the figures to this file.")
flags.adopt_module_key_flags(machine)

Contest = tuple[Callable[[], object], Callable[[], object]]  # theirs, ours


def measure(ours: timing.Ours, ceilings: roofline.Ceilings, pairs: int) -> Figures:
    """One line of the table: ours alone, in its steady state."""
    ours.one_round()
    step = statistics.median(ours.step_seconds() for _ in range(pairs))
    cost = roofline.step_cost(ours.workload)
    floor = cost.floor(ceilings)
    return {
        "devices": len(ours.workload.counts),
        "compile_seconds": ours.compile_seconds,
        "round_seconds": step * ours.workload.steps_per_round,
        "device_steps_per_second": 1 / step,
        "device_step_us": step * 1e6,
        "flops_per_second": cost.flops / step,
        "bytes_per_second": cost.bytes / step,
        "floor_us": floor * 1e6,
        "floor_fraction": floor / step,
        "predicted_bytes": ours.predicted_bytes,
        "peak_bytes": timing.peak_bytes(),
    }


def against(ours: timing.Ours, names: Sequence[str], pairs: int) -> Figures:
    """Peers' seconds over ours, round by round; evaluations also, of `pytorch`."""
    workload, ratios = ours.workload, {}
    train, test = workloads.samples(workload)
    params = workloads.start_params(workload)
    ours.evaluate()
    for name in names:
        say(f"{workload.name}: {name}")
        build = peers.PEERS[name]
        peer = build(workloads.setting(workload), params, train, test, workload.teams)
        contests: dict[str, Contest] = {name: (peer.one_round, ours.one_round)}
        if name == "pytorch" and any(workload.test_counts):
            contests["pytorch_evaluation"] = (peer.evaluate, ours.evaluate)
        for label, (theirs, own) in contests.items():
            theirs()
            ratios[label] = compare(theirs, own, pairs)
    return told(ratios)


def compare(
    call: Callable[[], object], base: Callable[[], object], pairs: int
) -> timing.Ratio:
    """Seconds of `call` over those of `base`."""
    return timing.ratio(
        lambda: timing.seconds(call), lambda: timing.seconds(base), pairs
    )


def told(ratios: dict[str, timing.Ratio]) -> Figures:
    """Medians under `ratio`, the rest under `spread`."""
    return {
        "ratio": {name: found.median for name, found in ratios.items()},
        "spread": {name: found._asdict() for name, found in ratios.items()},
    }


def fixed(
    workload: workloads.Workload,
    ceilings: roofline.Ceilings,
    peer_names: Sequence[str],
    pairs: int,
) -> Figures:
    """W1, W2, W3 or W5."""
    timing.forget_peak()
    ours = timing.Ours(workload)
    figures = measure(ours, ceilings, pairs)
    if peer_names:
        figures |= against(ours, peer_names, pairs)
    return figures


def growth(
    sizes: dict[int, workloads.Workload], ceilings: roofline.Ceilings, pairs: int
) -> Figures:
    """W4: each size, and seconds per device step of the largest over the second."""
    figures: Figures = {}
    second, largest = list(sizes)[1], list(sizes)[-1]
    kept = {}
    for number, workload in sizes.items():
        say(workload.name)
        timing.forget_peak()
        ours = timing.Ours(workload)
        figures[str(number)] = measure(ours, ceilings, pairs)
        if number in (second, largest):
            kept[number] = ours
    slope = timing.ratio(kept[largest].step_seconds, kept[second].step_seconds, pairs)
    name = f"slope_{largest}_over_{second}"
    return figures | {name: slope.median, "spread": {name: slope._asdict()}}


def rounds_over(
    cases: dict[str, workloads.Workload], base: workloads.Workload, pairs: int
) -> Figures:
    """Seconds of a global round of each case over those of `base`."""
    ratios, below = {}, timing.Ours(base)
    below.one_round()
    for name, case in cases.items():
        ours = timing.Ours(case)
        ours.one_round()
        ratios[name] = compare(ours.one_round, below.one_round, pairs)
    return told(ratios)


def methods(workload: workloads.Workload, pairs: int) -> Figures:
    """Seconds per gradient of a device, of each method over PerMFL's."""
    ratios, permfl = {}, timing.Ours(workload)
    permfl.one_round()
    for name, method in algorithms.ALGORITHMS.items():
        say(name)
        ours = timing.Ours(workload, name)
        ours.one_round()
        found = compare(ours.one_round, permfl.one_round, pairs)
        ratios[name] = timing.Ratio(*(x / method.gradients for x in found))
    return told(ratios)


def compile_seconds(cases: Sequence[workloads.Workload]) -> Figures:
    """Seconds to compile a round of each case, and of M, N, K, L times two."""
    return {
        each.name: timing.Ours(each).compile_seconds
        for case in cases
        for each in (case, case.doubled())
    }


def run(
    names: Sequence[str],
    ceilings: roofline.Ceilings,
    peer_names: Sequence[str],
    pairs: int,
    scale_devices: int | None = None,
) -> dict[str, Figures]:
    """The figures of every workload named."""
    figures = {}
    for name in names:
        say(name)
        if name in FIXED:
            workload = FIXED[name]
            if scale_devices:
                workload = workload.scaled_to(scale_devices)
            figures[name] = fixed(workload, ceilings, peer_names, pairs)
        elif name == "W4":
            figures[name] = growth(workloads.W4, ceilings, pairs)
        elif name == "participation":
            few = {"10_percent_over_full": workloads.FEW_ACT}
            figures[name] = rounds_over(few, workloads.MANY, pairs)
        elif name == "ragged":
            figures[name] = rounds_over(workloads.RAGGED, workloads.EVEN, pairs)
        elif name == "methods":
            figures[name] = methods(workloads.EVEN, pairs)
        else:
            figures[name] = compile_seconds((workloads.W1, workloads.W2))
    return figures


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def check_names(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises `InputError` unless all are known."""
    for name in given:
        if name not in known:
            raise InputError(
                f"--{flag}={name} is unknown; choose from {', '.join(known)}."
            )


def check_writable(path: str) -> None:
    """Raises `InputError` now, rather than after minutes."""
    try:
        open(path, "a", encoding="utf-8").close()
    except OSError as error:
        raise InputError(f"--json={path} cannot be written ({error}).") from error


def benchmark(values: Any) -> None:
    """Measures what the flags ask for, prints it and writes it.

    Raises:
      InputError: an unknown name, or a peer that is not installed.
    """
    check_names("workloads", values.workloads or [""], NAMES)
    check_names("peers", values.peers, tuple(peers.PEERS))
    if values.json:
        check_writable(values.json)
    peer_names = values.peers if values.peer else ()
    for name in peer_names:
        peers.load(name)  # now, rather than after minutes
    machine.set_precision(values.precision)
    say("ceilings")
    ceilings = roofline.ceilings()
    figures = run(
        values.workloads, ceilings, peer_names, values.pairs, values.scale_devices
    )
    host = {
        "chips": [device.device_kind for device in jax.devices()],
        "precision": values.precision,
        **ceilings._asdict(),
    }
    print(report(figures, host))
    if values.json:
        with open(values.json, "w", encoding="utf-8") as file:
            json.dump(figures | {"machine": host}, file, indent=1)


def main(argv: Sequence[str]) -> None:
    """Measures what the flags ask for."""
    program.no_arguments(argv)
    machine.use_all_cores()
    # A program that is found in a cache has not been compiled.
    jax.config.update("jax_enable_compilation_cache", False)
    benchmark(flags.FLAGS)


def console() -> None:
    """The command permfl-benchmark."""
    program.run(main, "experiments.benchmark")


if __name__ == "__main__":
    console()
