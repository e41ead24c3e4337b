"""What `experiments.convergence` leaves: a table, and predicted beside measured."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import report_svg, watch

Row = dict[str, Any]
_NAMES = {"device": "θ", "team": "w", "server": "x"}
_MOST_LINES = 5  # in a panel of curves


def table(rows: Sequence[Row], command: str) -> str:
    """Markdown: a table for each kind of row.

    Args:
      rows: of all cells.
      command: that repeats them.
    """
    parts = [
        f"`{command}`",
        "± is half of a 95 % interval over the seeds (Student's t).",
    ]
    for needed, title, columns in _TABLES:
        own = [row for row in rows if needed in row]
        if own:
            parts.append(_markdown(title, columns, own))
    return "\n\n".join(parts) + "\n"


def _markdown(title, columns: dict[str, Callable[[Row], str]], rows):
    lines = [title, "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += [
        "| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows
    ]
    return "\n".join(lines)


def _number(value, digits=3):
    return "–" if value is None else f"{value:.{digits}g}"


def _spread(found, flip=False):
    """A mean and its half width; of 1 - ρ where flipped."""
    if found is None:
        return "–"
    mean = 1 - found["mean"] if flip else found["mean"]
    half = "" if found["half"] is None else f" ± {found['half']:.1g}"
    return f"{mean:.4g}{half}"


def _percent(value):
    return "–" if value is None else f"{value:.2%}"


_CELL: dict[str, Callable[[Row], str]] = {
    "sweep": lambda r: r["sweep"],
    "cell": lambda r: r["cell"],
}
_TABLES: tuple[tuple[str, str, dict[str, Callable[[Row], str]]], ...] = (
    (
        "rate",
        "Rate of x per global round, 1 - ρ, and where it ends, |x - x*|.",
        {
            **_CELL,
            "T": lambda r: str(r["rounds"]),
            "measured": lambda r: _spread(r["rate"], flip=True),
            "of w": lambda r: _spread(r["tier_rates"]["team"], flip=True),
            "of θ": lambda r: _spread(r["tier_rates"]["device"], flip=True),
            "predicted": lambda r: f"{1 - r['predicted_rate']:.4g}",
            "1 - radius": lambda r: f"{1 - r.get('radius', r['predicted_rate']):.4g}",
            "apart from radius": lambda r: _percent(r["relative_error"]),
            "1 - ρ_x": lambda r: f"{1 - r['worst_rate']:.4g}",
            "end": lambda r: _spread(r["floor"]),
            "end, exact": lambda r: _number(r["exact_floor"], 4),
            "end, bound": lambda r: _number(r.get("floor_bound")),
        },
    ),
    (
        "over_pace",
        "What is left after T rounds, and over ρ_x^T |x^0 - x*|, by how K and L grow.",
        {
            **_CELL,
            "left": lambda r: _spread(r["left"]),
            "over ρ_x^T R": lambda r: _spread(r["over_pace"]),
        },
    ),
    (
        "bound",
        "Mean of |∇F|² over T rounds, beside 2 (F(x^0) - inf F) / (βT) + mean |e|².",
        {
            **_CELL,
            "T": lambda r: str(r["rounds"]),
            "measured": lambda r: _spread(r["mean_square"]),
            "bound": lambda r: _spread(r["bound"]),
            "of it mean e²": lambda r: _spread(r["error_square"]),
            "most of the bound used": lambda r: _spread(r["largest_share_of_bound"]),
            "holds at every T": lambda r: "yes" if r["holds"] else "NO",
        },
    ),
    (
        "slope",
        "Slope of log mean |∇F|² on log T, inexact gradients of the server.",
        {
            **_CELL,
            "T": lambda r: str(r["rounds"]),
            "slope": lambda r: _spread(r["slope"]),
            "mean": lambda r: _spread(r["mean_square"]),
            "last": lambda r: _spread(r["last_square"]),
            "last, long loops": lambda r: _spread(r["long_loops_square"]),
        },
    ),
)


def picture(rows: Sequence[Row], title: str) -> bytes:
    """A PNG: curves of θ, w and x, rates, growth of loops, gradients; what there is.

    Args:
      rows: of all cells.
      title: above it.
    """
    panels: list[Callable[[Any], None]] = []
    curved = [r for r in rows if "server" in r.get("curves", {})]
    shown = [r for r in curved if r["sweep"] == "loops"] or curved
    if shown:
        panels += [_tier_panel(shown[:_MOST_LINES], tier) for tier in watch.TIERS]
        if all("gradient" in row["curves"] for row in shown):
            panels.append(_tier_panel(shown[:_MOST_LINES], "gradient"))
    rated = [r for r in rows if r.get("rate")]
    if len(rated) > 1:
        panels.append(_rate_panel(rated))
    growing = [r for r in rows if "over_pace" in r]
    if growing:
        panels.append(_growth_panel(growing))
    for needed in ("bound", "slope"):
        found = [r for r in rows if needed in r]
        if found:
            panels.append(_gradient_panel(found[:_MOST_LINES]))

    def draw(figure):
        across = min(len(panels), 3)
        down = -(-len(panels) // across)
        axes = np.atleast_1d(figure.subplots(down, across)).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            panel(axis)
            report_svg.plain_ticks(axis)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.suptitle(title, fontsize=10)

    across, down = min(len(panels), 3), -(-len(panels) // 3)
    size = (4.2 * across, 3.6 * down)
    return report_svg.drawing("convergence", title, draw, size).png


def _tier_panel(rows, tier):
    def draw(axis):
        for number, row in enumerate(rows):
            _curve(axis, number, row, row["curves"][tier])
        axis.set(
            yscale="log",
            xlabel="global round",
            ylabel="|∇F(x)|"
            if tier == "gradient"
            else f"distance of {_NAMES[tier]} to its {rows[0]['curves']['to']}",
        )
        _legend(axis, "line: predicted, marks: measured")

    return draw


def _legend(axis, title=None):
    axis.legend(fontsize=7, title=title, title_fontsize=7)


def _curve(axis, number, row, curve):
    colour = report_svg.colour(number)
    rounds = row["curves"]["rounds"]
    if "predicted" in curve:
        axis.plot(rounds, curve["predicted"], color=colour, linewidth=1.2)
    axis.plot(
        rounds,
        curve["measured"],
        color=colour,
        marker=report_svg.MARKS[number % len(report_svg.MARKS)],
        linestyle="none" if "predicted" in curve else ":",
        markersize=3.5,
        label=report_svg.words(row["cell"]),
    )


def _rate_panel(rows):
    def draw(axis):
        names = list(dict.fromkeys(row["sweep"] for row in rows))
        ends = [1 - row["predicted_rate"] for row in rows]
        axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.6", zorder=0)
        for number, name in enumerate(names):
            own = [row for row in rows if row["sweep"] == name]
            axis.errorbar(
                [1 - row["predicted_rate"] for row in own],
                [1 - row["rate"]["mean"] for row in own],
                yerr=[row["rate"]["half"] or 0 for row in own],
                color=report_svg.colour(number),
                marker=report_svg.MARKS[number % len(report_svg.MARKS)],
                linestyle="none",
                markersize=4,
                capsize=2,
                label=name,
            )
        axis.set(xlabel="1 − ρ, predicted", ylabel="1 − ρ, measured, 95 % interval")
        _legend(axis)

    return draw


def _growth_panel(rows):
    def draw(axis):
        for number, plan in enumerate(dict.fromkeys(row["plan"] for row in rows)):
            own = [row for row in rows if row["plan"] == plan]
            axis.plot(
                [row["rounds"] for row in own],
                [row["left"]["mean"] for row in own],
                color=report_svg.colour(number),
                marker=report_svg.MARKS[number],
                markersize=4,
                label=f"K and L {plan}",
            )
        pace = [row for row in rows if row["plan"] == rows[0]["plan"]]
        axis.plot(
            [row["rounds"] for row in pace],
            [row["pace"] for row in pace],
            color="0.5",
            linestyle="--",
            label="ρ_x^T |x⁰ − x*|",
        )
        axis.set(yscale="log", xlabel="T", ylabel="|x − x*| after T rounds")
        _legend(axis)

    return draw


def _gradient_panel(rows):
    def draw(axis):
        for number, row in enumerate(rows):
            _curve(axis, number, row, row["curves"]["gradient"])
        axis.set(xscale="log", yscale="log", xlabel="T", ylabel="mean |∇F|² until T")
        label = "line: bound" if "bound" in rows[0] else "inexact gradients"
        _legend(axis, label)

    return draw
