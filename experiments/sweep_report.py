"""What a person reads at the end of a sweep: a line for each member, a picture."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from permfl_jax import plain_files
from permfl_jax.evaluate import LABELS

from . import job

Rows = Sequence[dict[str, Any]]


def summarise(members: Rows, rows: Rows, majority: float) -> dict[str, Any]:
    """Each member's last and best rows, and the best member for each model.

    Args:
      members: number, seed and setting of each.
      rows: of all members, in the order of the evaluations.
      majority: accuracy of guessing each device's commonest label.

    Returns:
      The best members are chosen on validation samples at the last round, never on
      test. A member that diverged has `diverged` and no numbers.
    """
    found = []
    for member in members:
        own = [row for row in rows if row["member"] == member["member"]]
        if "diverged" in own[-1]:
            result = {"diverged": own[-1]["diverged"]}
        else:
            result = job.summarise(own, {})
            del result["floors"]
        found.append({**member, **result})
    whole = [member for member in found if "last" in member]
    best = {
        label: max(whole, key=lambda member: _validation(member, label))["member"]
        for label in _labels(found)
    }
    return {
        "members": found,
        "best_by_validation": best,
        "floors": {"majority/accuracy": majority},
    }


def table(summary: dict[str, Any]) -> str:
    """A line for each member, by validation accuracy of the first model, as text."""
    members, labels = summary["members"], _labels(summary["members"])
    names = list(members[0]["hparams"])
    finished = [member for member in members if "last" in member]
    finished.sort(key=lambda member: -_validation(member, labels[0]))
    diverged = [member for member in members if "last" not in member]
    head = "".join(f"{f'{label} val':>16}{'test':>9}" for label in labels)
    lines = [
        f"accuracy, round {finished[0]['last']['round']}",
        f"{'seed':>10}" + "".join(f"{name:>13}" for name in names) + head,
    ]
    for member in finished + diverged:
        values = "".join(f"{member['hparams'][name]:>13g}" for name in names)
        lines.append(f"{member['seed']:>10}" + values + _scores(member, labels))
    by_number = {member["member"]: member for member in members}
    for label, number in summary["best_by_validation"].items():
        chosen = by_number[number]
        lines.append(
            f"best {label} by validation: {chosen['last'][f'{label}/accuracy']:.2%} on "
            f"test, {_name(chosen)}"
        )
    floor = summary["floors"]["majority/accuracy"]
    lines.append(f"floor, majority label of the device: {floor:.2%} on test")
    if "cost" in summary:
        lines.append(
            "seconds per member and round over those of one member alone: "
            "{median:.3g} ({min:.3g} to {max:.3g}, {pairs} pairs)".format(
                **summary["cost"]
            )
        )
    return "\n".join(lines)


def _scores(member, labels):
    if "diverged" in member:
        return f"   {member['diverged'].split(';')[0]}"
    last = member["last"]
    return "".join(
        f"{last[f'{label}/validation/accuracy']:>16.2%}{last[f'{label}/accuracy']:>9.2%}"
        for label in labels
    )


def _labels(members):
    """The models that the method has; some member is there to tell."""
    last = next(member["last"] for member in members if "last" in member)
    return [label for label in LABELS if f"{label}/accuracy" in last]


def _validation(member, label):
    return member["last"][f"{label}/validation/accuracy"]


def _name(member):
    settings = [f"{name}={value:g}" for name, value in member["hparams"].items()]
    return ", ".join([f"seed {member['seed']}", *settings])


def picture(
    summary: dict[str, Any],
    rows: Rows,
    axes: dict[str, tuple[float, ...]],
    title: str,
    path: str | os.PathLike[str],
) -> None:
    """Validation accuracy to a PNG: a heat map of two axes, or else curves.

    Args:
      summary: from `summarise`.
      rows: of all members.
      axes: of the grid; those with one value do not count.
      title: above it.
      path: of the file.
    """
    import matplotlib  # slow to import, and only needed here

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    label = _labels(summary["members"])[0]
    wide = {name: values for name, values in axes.items() if len(values) > 1}
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    if len(wide) == 2:
        means = heat(summary["members"], wide, label)
        drawn = axis.imshow(means, origin="lower", aspect="auto")
        down, across = wide
        for name, ticks in ((down, axis.set_yticks), (across, axis.set_xticks)):
            ticks(range(len(wide[name])), [f"{value:g}" for value in wide[name]])
        axis.set(xlabel=across, ylabel=down)
        figure.colorbar(drawn, label=f"{label} validation accuracy, mean of seeds")
    else:
        _curves(axis, summary["members"], rows, label)
    figure.suptitle(title)
    with plain_files.whole(path) as file:
        figure.savefig(file, dpi=120)
    plt.close(figure)


def heat(members: Rows, wide: dict[str, tuple[float, ...]], label: str) -> np.ndarray:
    """`[first axis, second axis]` mean over the seeds, NaN where one diverged."""
    (down, rows), (across, columns) = wide.items()
    found = np.zeros((len(rows), len(columns)))
    number = np.zeros_like(found)
    for member in members:
        setting = member["hparams"]
        place = rows.index(setting[down]), columns.index(setting[across])
        found[place] += _validation(member, label) if "last" in member else np.nan
        number[place] += 1
    return found / number


def _curves(axis, members, rows, label):
    name = f"{label}/validation/accuracy"
    for member in members:
        own = [row for row in rows if row["member"] == member["member"]]
        scored = [row for row in own if name in row]
        note = " (diverged)" if "diverged" in member else ""
        axis.plot(
            [row["round"] for row in scored],
            [row[name] for row in scored],
            marker=".",
            label=_name(member) + note,
        )
    axis.set(xlabel="global round", ylabel=f"{label} validation accuracy")
    if len(members) <= 12:
        axis.legend(frameon=False, fontsize=7)
