"""What a person reads at the end of a run: a small table and a picture."""

import os
from collections.abc import Callable
from typing import Any

from permfl_jax import plain_files
from permfl_jax.errors import InputError
from permfl_jax.evaluate import LABELS

_COLOURS = {
    "PM": "#1b7837",
    "PM_adapted": "#7fbf7b",
    "TM": "#7b3294",
    "GM": "#2166ac",
}


def table(summary: dict[str, Any]) -> str:
    """PM, TM and GM on test at the last round, and the floors, as text."""
    last, best, floor = (
        summary[name] for name in ("last", "best_by_validation", "floors")
    )
    lines = [
        f"{'test accuracy, round ' + str(last['round']):34}"
        f"{'pooled':>8}{'devices':>9}{'worst 10%':>11}{'loss':>8}   best by validation"
    ]
    for label, meaning in LABELS.items():
        if f"{label}/accuracy" in last:
            chosen = best.get(label)
            note = (
                f"{chosen['accuracy']:.2%} (round {chosen['round']})" if chosen else "-"
            )
            lines.append(_line(f"{label}  {meaning}", last, label) + f"   {note}")
    if "local/accuracy" in floor:
        lines.append(_line("floor: each device alone", floor, "local"))
    lines.append(
        f"{'floor: majority label of the device':34}{floor['majority/accuracy']:>8.2%}"
    )
    return "\n".join(lines)


def of_finished(
    table_of: Callable[[dict[str, Any]], str],
    summary: dict[str, Any],
    path: os.PathLike,
) -> str:
    """The table of a run that was finished before.

    Args:
      table_of: makes it.
      summary: of the run, from a file that anyone may have changed.
      path: the folder of the run.

    Raises:
      InputError: the summary is damaged.
    """
    try:
        return table_of(summary)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as why:
        raise InputError(
            f"--workdir={path} holds a damaged summary.json; choose another folder."
        ) from why


def _line(title, values, label):
    return (
        f"{title:34}{values[f'{label}/accuracy']:>8.2%}"
        f"{values[f'{label}/device_mean_accuracy']:>9.2%}"
        f"{values[f'{label}/worst_decile_accuracy']:>11.2%}"
        f"{values[f'{label}/loss']:>8.3f}"
    )


def curves(
    rows: list[dict[str, Any]],
    floor: dict[str, float],
    title: str,
    path: str | os.PathLike[str],
) -> None:
    """Draws test accuracy and loss of the three tiers over rounds to a PNG."""
    import matplotlib  # slow to import, and only needed here

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rounds = [row["round"] for row in rows]
    for axis, quantity in zip(axes, ("accuracy", "loss"), strict=True):
        for label, colour in _COLOURS.items():
            name = f"{label}/{quantity}"
            if name in rows[0]:
                values = [row[name] for row in rows]
                axis.plot(rounds, values, color=colour, label=label, marker=".")
        axis.set(xlabel="global round", ylabel=f"test {quantity}")
    for name, style, label in (
        ("local/accuracy", "--", "each device alone"),
        ("majority/accuracy", ":", "majority label"),
    ):
        if name in floor:
            axes[0].axhline(floor[name], color="0.4", linestyle=style, label=label)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    with plain_files.whole(path) as file:
        figure.savefig(file, dpi=120)
    plt.close(figure)
