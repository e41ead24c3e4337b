"""The picture of a comparison: a dot and its interval for each method and model."""

import os
from typing import Any

from permfl_jax import plain_files

from .scores import LABELS

# Okabe and Ito's colours, told apart also by shape and in grey.
_MARKS = {"PM": ("#0072B2", "o"), "TM": ("#E69F00", "s"), "GM": ("#009E73", "D")}
_LINES = {"majority": ":", "local": "--", "pooled": "-."}
_LINE_LABELS = {"majority": "PM", "local": "PM", "pooled": "GM"}


def picture(
    tables: dict[str, list[dict[str, Any]]],
    quantity: str,
    title: str,
    path: str | os.PathLike[str],
) -> None:
    """Draws a panel for each column to a PNG.

    Args:
      tables: column to its rows, from `tables.rows`.
      quantity: `""` for the last round or `"_best"` for the best one.
      title: above all panels.
      path: of the file.
    """
    import matplotlib  # slow to import, and only needed here

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    most = max(len(rows) for rows in tables.values())
    across = min(len(tables), 3)
    down = -(-len(tables) // across)
    figure, panels = plt.subplots(
        down,
        across,
        figsize=(1.2 + 4.2 * across, (1.4 + 0.34 * most) * down),
        layout="constrained",
        squeeze=False,
    )
    for panel, (column, rows) in zip(panels.flat, tables.items(), strict=False):
        _panel(panel, column, rows, quantity)
    for panel in panels.flat[len(tables) :]:
        panel.set_visible(False)
    handles = {}
    for panel in panels.flat:
        found, names = panel.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), 6),
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(title, fontsize=10)
    with plain_files.whole(path) as file:
        figure.savefig(file, dpi=120)
    plt.close(figure)


def _panel(panel, column, rows, quantity):
    methods = [row for row in rows if row["role"] == "method"] or rows[1:]
    for number, label in enumerate(LABELS):
        colour, mark = _MARKS[label]
        drawn = [
            (place + 0.22 * (number - 1), row)
            for place, row in enumerate(methods)
            if _mean(row, label, quantity) is not None
        ]
        if not drawn:
            continue
        panel.errorbar(
            [_mean(row, label, quantity) for _, row in drawn],
            [place for place, _ in drawn],
            xerr=[row[f"{label}{quantity}_interval"] or 0 for _, row in drawn],
            color=colour,
            marker=mark,
            linestyle="none",
            markersize=5,
            capsize=2,
            label=label,
        )
    for row in rows:
        label = _LINE_LABELS.get(row["method"])
        value = label and _mean(row, label, quantity)
        if value is not None:
            panel.axvline(
                value,
                color="0.45",
                linestyle=_LINES[row["method"]],
                linewidth=1.2,
                zorder=0,
                label=f"{row['method']} ({row['role']}, {label})",
            )
    panel.set_yticks(range(len(methods)), [row["method"] for row in methods])
    panel.set_ylim(len(methods) - 0.5, -0.5)
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.set_title(column, fontsize=9)
    panel.set_xlabel("test accuracy, %, with 95 % interval", fontsize=8)


def _mean(row, label, quantity):
    """Floors of one number, such as the majority label, have no best round."""
    best = row.get(f"{label}{quantity}_mean")
    return row.get(f"{label}_mean") if best is None else best
