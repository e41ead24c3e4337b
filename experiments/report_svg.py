"""A drawing as SVG that follows the page's colours, light or dark, and as PNG."""

import html
import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

# Light and dark of each series; told apart also by markers, dashes or place.
SERIES = (
    ("#0072b2", "#5ab4f0"),
    ("#c26a00", "#f0a94a"),
    ("#008a64", "#3fcf9f"),
    ("#b5508a", "#e694c4"),
    ("#6a51a3", "#b5a3e8"),
    ("#a63d2f", "#f08a78"),
    ("#4d6b00", "#b3cf4a"),
    ("#546270", "#b4c0cc"),
)
INK, MIDDLE, GRID = "#1c1f24", "#6b7281", "#dfe2e6"
# Stands for a quantity by how much of it covers the page: the same in both.
COVER = "#2f7fc1"
DASHES = ("-", "--", ":")
MARKS = "osD^vPX*"
_LONGEST = 60  # characters of a word of a user's
_DPI = 160


class Drawing(NamedTuple):
    """A finished figure.

    Attributes:
      name: of its file and its place in the page.
      title: what it shows, for those who do not see it.
      svg: an element for an HTML page; its ids begin with `fig-NAME`.
      png: the same, light.
    """

    name: str
    title: str
    svg: str
    png: bytes


def colour(number: int) -> str:
    """Of a series."""
    return SERIES[number % len(SERIES)][0]


def dashes(number: int) -> str:
    """Of a series, where there are more than colours."""
    return DASHES[number // len(SERIES) % len(DASHES)]


def words(text: str) -> str:
    """A user's text, cut, and without what the font of the PNG does not have."""
    kept = "".join(c if c.isprintable() and ord(c) < 0x500 else "?" for c in text)
    return kept if len(kept) <= _LONGEST else kept[: _LONGEST - 1] + "…"


def plain_ticks(axis: Any) -> None:
    """Powers of ten as numbers: the style of reports shows no formulas."""
    from matplotlib import ticker

    for way in (axis.xaxis, axis.yaxis):
        if way.get_scale() == "log":
            way.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
            way.set_minor_formatter(ticker.NullFormatter())


def drawing(
    name: str,
    title: str,
    draw: Callable[[Any], None],
    size: tuple[float, float] = (5.0, 3.4),
) -> Drawing:
    """Draws a figure.

    Args:
      name: letters, digits and hyphens, its own in the page.
      title: what it shows.
      draw: draws on the empty `matplotlib.figure.Figure` that it is given.
      size: width and height in inches; a page shows it about as wide as a phone.
    """
    import matplotlib  # slow to import, and not needed for --help
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(
            svg, format="svg", transparent=True, metadata=dict.fromkeys(_DATED)
        )
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    return Drawing(
        name, title, _inline(svg.getvalue(), f"fig-{name}", title), png.getvalue()
    )


_DATED = ("Date", "Creator", "Format", "Type")
_STYLE = {
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a user's $ is a $
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MIDDLE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
}


def _inline(text, name, title):
    """matplotlib's file as an element of a page that has others."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", text, flags=re.S
    )
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(\sid=")', rf"\1{name}-", text)
    text = re.sub(r'\sxlink:href="#', f' href="#{name}-', text)
    text = text.replace("xlink:href=", "href=").replace("url(#", f"url(#{name}-")
    for number, (light, _) in enumerate(SERIES):
        text = text.replace(light, f"var(--s{number})")
    for light, dark in ((INK, "currentColor"), (GRID, "var(--grid)")):
        text = text.replace(light, dark)
    text = text.replace(MIDDLE, "var(--middle)")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box
    label = html.escape(title)
    head = f'<svg class="plot" id="{name}" role="img" {box[0]} aria-label="{label}">'
    return re.sub(r"<svg.*?>", lambda _: head, text, count=1, flags=re.S)


def themes() -> str:
    """The page's colours as CSS."""
    light = [f"--s{i}:{pair[0]}" for i, pair in enumerate(SERIES)]
    dark = [f"--s{i}:{pair[1]}" for i, pair in enumerate(SERIES)]
    light += [f"--grid:{GRID}", f"--middle:{MIDDLE}", f"--ink:{INK}", "--paper:#fff"]
    light += ["--tint:#f3f5f7", "--link:#005a9c"]
    dark += ["--grid:#33383f", "--middle:#9aa3ae", "--ink:#e6e9ed", "--paper:#14161a"]
    dark += ["--tint:#1f232a", "--link:#7cc0f5"]
    return (
        f":root{{color-scheme:light dark;{';'.join(light)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{';'.join(dark)}}}}}"
    )
