"""Who has what: the map of teams and classes, and the members of teams."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import report_svg
from .report_folder import Run
from .report_groups import Group
from .report_svg import Drawing

MOST_DEVICES = 2000  # drawn one by one
MOST_TEAMS = 40  # likewise
_MOST_ROWS = 250  # of a map
_MOST_CELLS = 130  # with a number in each
_MOST_VECTORS = 3000  # cells; more are pixels
_NEIGHBOURS = (0.85, 0.5)  # covers, in turn
_FULL = 0.78  # cover of the largest share: text over it stays readable


def distinct(groups: Sequence[Group]) -> list[tuple[str, Run]]:
    """The runs that differ in who has what: the first of each group, with its name."""
    found: dict[str, tuple[str, Run]] = {}
    for group in groups:
        run = next((run for run in group.runs if run.owned is not None), None)
        if run is not None:
            sha256 = run.config["partition"]["sha256"]
            found.setdefault(sha256, (f"{group.label}, seed {run.seed}", run))
    return list(found.values())


def samples_of(run: Run) -> np.ndarray:
    """`[D]`, those of validation and test too."""
    assert run.owned is not None
    return np.array([sum(map(len, p)) for p in zip(*run.owned[:3], strict=True)])


def by_team(run: Run) -> np.ndarray:
    """`[M, C]` samples of each class in each team."""
    assert run.owned is not None
    assert run.devices is not None
    classes = run.devices.classes
    found = np.zeros((run.owned.team.max() + 1, classes.shape[1]), np.int64)
    np.add.at(found, run.owned.team, classes)
    return found


def class_map(run: Run, name: str, title: str) -> Drawing:
    """Teams down, classes across, covered by the class's share of the team's samples.

    Args:
      run: one with `devices`.
      name: of the figure.
      title: of the figure.
    """
    counts = by_team(run)
    teams = len(counts)
    rows = np.array_split(counts, min(teams, _MOST_ROWS))
    counts = np.stack([part.sum(axis=0) for part in rows])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    largest = max(float(share.max()), 1e-9)

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        cells = np.empty((*share.shape, 4))
        cells[..., :3] = _rgb(report_svg.COVER)
        cells[..., 3] = _FULL * share / largest
        # Each team a band of height 1, also where a row of the map is many teams.
        edges = np.cumsum([0, *map(len, rows)]) - 0.5
        across = np.arange(share.shape[1] + 1) - 0.5
        panel.pcolormesh(across, edges, cells, rasterized=counts.size > _MOST_VECTORS)
        panel.grid(visible=False)
        panel.set(xlabel="class", ylabel="team", ylim=(teams - 0.5, -0.5))
        _whole_ticks(panel.xaxis, share.shape[1], 16)
        _whole_ticks(panel.yaxis, teams, MOST_TEAMS // 2)
        if counts.size <= _MOST_CELLS:
            for (team, label), count in np.ndenumerate(counts):
                panel.text(label, team, str(count), ha="center", va="center", size=8.5)

    return report_svg.drawing(name, title, draw, (5.0, _height(teams)))


def largest_share(run: Run) -> float:
    """Of one class among the samples of a team."""
    counts = by_team(run)
    return float((counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)).max())


def members(run: Run, name: str, title: str) -> Drawing:
    """Each team a bar of its samples, cut into its devices; or two histograms.

    Args:
      run: one with `owned`.
      name: of the figure.
      title: of the figure.
    """
    assert run.owned is not None
    team, samples = run.owned.team, samples_of(run)
    teams = int(team.max()) + 1
    if aggregated(run):

        def draw(figure: Any) -> None:
            left, right = figure.subplots(1, 2)
            _histogram(left, np.bincount(team, minlength=teams), "devices", "teams")
            _histogram(right, samples, "samples", "devices")

        return report_svg.drawing(name, title, draw, (5.0, 2.8))

    def draw_each(figure: Any) -> None:
        panel = figure.subplots()
        for number in range(teams):
            own = np.sort(samples[team == number])[::-1]
            panel.barh(
                np.full(len(own), number),
                own,
                left=np.cumsum(own) - own,
                height=0.7,
                color=[(report_svg.colour(0), cover) for cover in _NEIGHBOURS],
                linewidth=0,
            )
        panel.grid(axis="y", visible=False)
        panel.set(xlabel="samples", ylabel="team", ylim=(teams - 0.5, -0.5))
        _whole_ticks(panel.yaxis, teams, MOST_TEAMS // 2)

    return report_svg.drawing(name, title, draw_each, (5.0, _height(teams)))


def told(run: Run) -> str:
    """How many devices, teams and samples."""
    assert run.owned is not None
    teams = int(run.owned.team.max()) + 1
    return (
        f"{len(run.owned.team):,} devices in {teams:,} teams, "
        f"{samples_of(run).sum():,} samples"
    )


def aggregated(run: Run) -> bool:
    """Whether there are too many devices or teams to draw each."""
    assert run.owned is not None
    team = run.owned.team
    return len(team) > MOST_DEVICES or int(team.max()) >= MOST_TEAMS


def _histogram(panel, values, of_what, whose):
    low, high = int(values.min()), int(values.max())
    step = max(-(-(high - low + 1) // 20), 1)
    edges = np.arange(low, high + step + 1, step) - 0.5
    panel.hist(values, edges, color=report_svg.colour(0), alpha=0.8, rwidth=0.9)
    panel.grid(axis="x", visible=False)
    owner = whose.removesuffix("s")
    panel.set(xlabel=f"{of_what} of a {owner}", ylabel=f"number of {whose}")
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=True, nbins=4)


def _whole_ticks(axis, number, most):
    """Every n-th whole number, at most so many."""
    axis.set_ticks(np.arange(0, number, -(-number // most)))


def _height(teams):
    return 1.4 + 0.26 * min(max(teams, 5), 20)


def _rgb(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
