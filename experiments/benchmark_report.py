"""The figures of a benchmark as text."""

from typing import Any

Figures = dict[str, Any]

# Heading, key and unit of each column, and how it is printed.
COLUMNS = (
    ("devices", "devices", 1, "d"),
    ("compile s", "compile_seconds", 1, ".1f"),
    ("s/round", "round_seconds", 1, ".3f"),
    ("steps/s", "device_steps_per_second", 1, ".0f"),
    ("µs/step", "device_step_us", 1, ".1f"),
    ("GFLOP/s", "flops_per_second", 1e9, ".1f"),
    ("GB/s", "bytes_per_second", 1e9, ".2f"),
    ("floor µs", "floor_us", 1, ".1f"),
    ("of floor", "floor_fraction", 1, ".2f"),
    ("MB planned", "predicted_bytes", 1e6, ".0f"),
    ("MB peak", "peak_bytes", 1e6, ".0f"),
)


def report(figures: dict[str, Figures], host: Figures) -> str:
    """All figures as text: a table, and ratios and other numbers below it."""
    lines = [
        f"{len(host['chips'])} x {host['chips'][0]}, {host['precision']}; at most "
        f"{host['flops_per_second'] / 1e9:.0f} GFLOP/s (product), "
        f"{host['bytes_per_second'] / 1e9:.1f} GB/s (pass over memory)",
        f"{'':10}" + "".join(f"{head:>11}" for head, *_ in COLUMNS),
    ]
    notes = []
    for name, found in figures.items():
        rows = {name: found}
        rows |= {f"{name}/{k}": v for k, v in found.items() if isinstance(v, dict)}
        for label, row in rows.items():
            if "device_step_us" in row:
                lines.append(f"{label:10}" + "".join(_cells(row)))
        notes += [
            f"{name} {label}: {spread['median']:.3g} "
            f"({spread['min']:.3g} to {spread['max']:.3g})"
            for label, spread in found.get("spread", {}).items()
        ]
        if name == "compile":
            notes += [f"compile {label}: {s:.2f} s" for label, s in found.items()]
    return "\n".join([*lines, *notes])


def _cells(row: Figures) -> list[str]:
    return [
        f"{row[key] / unit if unit != 1 else row[key]:>11{form}}"
        for _, key, unit, form in COLUMNS
    ]
