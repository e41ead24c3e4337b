"""The page of a report: one HTML file that needs nothing else."""

from collections.abc import Sequence
from typing import NamedTuple

from . import report_figures, report_groups, report_maps, report_svg, report_tables
from .report_folder import Run
from .report_groups import Group
from .report_svg import Drawing
from .report_tables import text

_MOST_MAPS = 4  # of different data in one page
_CSS = """
:root{--font:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;color:var(--ink);
background:var(--paper);font:16px/1.5 var(--font);overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.2rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--grid)}
h3{font-size:1rem;margin:1rem 0 .3rem}
p{max-width:46rem;margin:.5rem 0}
a{color:var(--link)}
nav a{display:inline-block;padding:.25rem .7rem .25rem 0}
.state{font-weight:600}
.remarks{background:var(--tint);border-left:4px solid var(--s1);padding:.5rem .8rem;
margin:1rem 0}
.remarks ul{margin:.2rem 0;padding-left:1.2rem}
.grid{display:grid;gap:1.2rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
figure{margin:0;min-width:0;max-width:36rem}
figcaption{font-size:.9rem;margin-top:.2rem}
svg.plot{display:block;width:100%;height:auto;color:var(--ink)}
svg.plot *{stroke-linejoin:round;stroke-linecap:butt}
svg.plot text{font-family:var(--font)!important}
.wide{overflow-x:auto;margin:.6rem 0 1.2rem;background:
linear-gradient(to left,var(--paper) 1rem,transparent) right/2rem 100% no-repeat local,
linear-gradient(to left,var(--middle),transparent) right/.5rem 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.2rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;
border-bottom:1px solid var(--grid);overflow-wrap:normal}
tbody th{font-weight:400}
td{max-width:28rem;min-width:4rem}
tbody th{min-width:6rem}
td.short{white-space:nowrap}
tr.differs{background:var(--tint);font-weight:600}
tr.differs th{font-weight:600}
pre{overflow-x:auto;background:var(--tint);padding:.7rem;white-space:pre-wrap}
details{margin:.6rem 0}
summary{cursor:pointer}
"""


class Page(NamedTuple):
    """A finished report.

    Attributes:
      html: the whole file.
      drawings: its figures, in the page's order.
    """

    html: str
    drawings: list[Drawing]


def page(runs: Sequence[Run]) -> Page:
    """Makes the report of one run or several.

    Args:
      runs: at least one.

    Raises:
      InputError: too many different settings for one page.
    """
    groups = report_groups.group(runs)
    sections = [_results, _curves, _devices, _classes, _teams, _traffic]
    body, drawings, links = [], [], []
    for section in sections:
        name, title, inner, drawn = section(groups)
        body.append(_section(name, title, inner))
        links.append((name, title))
        drawings += drawn
    for name, title, inner in (
        ("settings", "Settings", report_tables.settings(groups)),
        ("command", "The command again", _commands(runs)),
        ("origin", "Commit, machine, versions", report_tables.origin(runs)),
    ):
        body.append(_section(name, title, inner))
        links.append((name, title))
    return Page(_whole(groups, links, "".join(body)), drawings)


def _whole(groups, links, body):
    title = _title(groups)
    nav = "".join(f'<a href="#{name}">{text(shown)}</a> ' for name, shown in links)
    # Nothing is fetched and no script runs, whatever a file smuggles in.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{report_svg.themes()}{_CSS}</style></head>"
        f"<body><header><h1>{text(title)}</h1>{_state(groups)}"
        f'<nav aria-label="Sections">{nav}</nav></header>'
        f"<main>{_remarks(groups)}{body}</main></body></html>\n"
    )


def _title(groups):
    if len(groups) == 1:
        return groups[0].label
    shown = ", ".join(group.label for group in groups[:4]) + ", …" * (len(groups) > 4)
    return f"Comparison of {len(groups)} settings: {shown}"


def _state(groups):
    runs = [run for group in groups for run in group.runs]
    going = [run for run in runs if run.summary is None]
    number = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    if not going:
        return f'<p class="state">{number}, finished</p>'
    done = "; ".join(
        f"{run.name} at round {run.rows[-1]['round'] if run.rows else 0} of "
        f"{run.settings.get('num_rounds', '?')}"
        for run in going
    )
    return f'<p class="state">{number}, unfinished: {text(done)}</p>'


def _remarks(groups):
    said = [*report_groups.remarks(groups)]
    for group in groups:
        for run in group.runs:
            said += [f"{run.name}: {remark}" for remark in run.remarks]
    if not said:
        return ""
    items = "".join(f"<li>{text(remark)}</li>" for remark in said)
    return f'<aside class="remarks" aria-label="Remarks"><ul>{items}</ul></aside>'


def _section(name, title, inner):
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{text(title)}</h2>'
        f"{inner}</section>"
    )


def _figures(drawings, caption=""):
    """Side by side where there is room; the caption beside one, else below all."""
    shown = "".join(
        f"<figure>{each.svg}<figcaption>{text(each.title)}.</figcaption></figure>"
        for each in drawings
    )
    note = f"<p>{text(caption)}</p>" if caption else ""
    inside, below = (note, "") if len(drawings) == 1 else ("", note)
    return f'<div class="grid">{shown}{inside}</div>{below}'


def _absent(what):
    return f"<p>{text(what)}</p>"


def _results(groups):
    several = any(len(group.runs) > 1 for group in groups)
    note = (
        "Last round, on test samples, accuracies in percent, pooled over all devices' "
        "samples; then the mean of all devices, and what a tenth of them stays below."
    )
    if several:
        note += " Mean ± 95 % confidence interval (Student t) over seeds."
    inner = report_tables.headline(groups) + f"<p>{text(note)}</p>"
    return "results", "Results", inner, []


def _curves(groups):
    drawn = report_figures.curves(groups)
    note = "Test samples, pooled over all devices."
    if any(len(group.runs) > 1 for group in groups):
        note += " Lines: mean over seeds; bands: from the lowest seed to the highest."
    inner = _absent("There is no evaluation yet.")
    if drawn:
        # Each quantity in rows of its own, where it has a figure for every tier.
        losses = [each for each in drawn if each.name.startswith("curve-loss-")]
        others = [each for each in drawn if each not in losses]
        rows = [others, losses] if losses else [others]
        inner = "".join(map(_figures, rows)) + f"<p>{text(note)}</p>"
    return "curves", "Accuracy and loss", inner, drawn


def _devices(groups):
    drawn = report_figures.devices(groups)
    note = (
        "Devices are sorted by their accuracy, for each line by itself; a line that "
        "starts low has devices that are served badly. Seeds of one setting together."
    )
    inner = _absent(
        "Scores of single devices are not in devices.npz; they are written when a run "
        "ends."
    )
    return "devices", "Single devices", _figures(drawn, note) if drawn else inner, drawn


def _classes(groups):
    runs = [
        (label, run)
        for label, run in report_maps.distinct(groups)
        if run.devices is not None
    ]
    drawn, largest = [], 0.0
    for place, (label, run) in enumerate(runs[:_MOST_MAPS]):
        title = f"Samples of each class in each team: {label}"
        drawn.append(report_maps.class_map(run, f"classes-{place}", title))
        largest = max(largest, report_maps.largest_share(run))
    note = (
        "The fuller the blue, the larger the share of the class among the team's "
        f"samples; the largest of all is {largest:.0%}. Numbers are samples, those of "
        f"validation and test too.{_left_out(runs)}"
    )
    inner = _absent("Samples of each class were not recorded (devices.npz).")
    title = "Teams and classes"
    return "classes", title, _figures(drawn, note) if drawn else inner, drawn


def _left_out(runs):
    if len(runs) <= _MOST_MAPS:
        return ""
    return f" {len(runs) - _MOST_MAPS} more partitions of the data are not shown."


def _teams(groups: Sequence[Group]):
    runs = report_maps.distinct(groups)
    drawn, tables = [], []
    for place, (label, run) in enumerate(runs[:_MOST_MAPS]):
        title = f"{report_maps.told(run)}: {label}"
        drawn.append(report_maps.members(run, f"teams-{place}", title))
        if not report_maps.aggregated(run):
            tables.append(
                f"<details><summary>Members by number: {text(label)}</summary>"
                f"{report_tables.teams(run)}</details>"
            )
    note = (
        "A bar is a team, a piece of it a device, as long as the device has samples; "
        f"histograms where there are more than {report_maps.MOST_DEVICES} devices or "
        f"{report_maps.MOST_TEAMS} teams.{_left_out(runs)}"
    )
    inner = _figures(drawn, note) + "".join(tables)
    absent = _absent("Who is in which team was not recorded (partition.npz).")
    return "teams", "Members of teams", inner if drawn else absent, drawn


def _traffic(groups):
    drawn = report_figures.traffic(groups)
    inner = report_tables.sent(groups)
    if drawn:
        inner = _figures(drawn, "Bytes of models sent, both directions.") + inner
    else:
        inner += _absent("metrics.jsonl has no bytes, so there is no figure.")
    return "traffic", "Communication against accuracy", inner, drawn


def _commands(runs):
    return report_tables.commands(runs)
