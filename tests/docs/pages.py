"""What the pages of docs/ say, taken literally."""

import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"

_BLOCK = re.compile(
    r"^```(\{code-block\} )?(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A block of code of a page.

    Attributes:
      language: such as `python`.
      file: its caption, or `None`.
      text: what is in it.
    """

    language: str
    file: str | None
    text: str


def blocks(page):
    """The blocks of code of a page, in order."""
    found = []
    text = (DOCS / page).read_text(encoding="utf-8")
    for directive, language, body in _BLOCK.findall(text):
        caption = re.match(r":caption: (\S+)\n\n", body) if directive else None
        body = body[caption.end() :] if caption else body
        found.append(Block(language, caption[1] if caption else None, body))
    return found


def patched(text, diff):
    """`text` with the change that a block of a diff shows; its place must be unique."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if not line.startswith("+"))
    after = "".join(line[1:] for line in lines if not line.startswith("-"))
    # At the start of a line, so that no longer line is taken for this one.
    places = [
        match.start() for match in re.finditer("^" + re.escape(before), text, re.M)
    ]
    assert len(places) == 1, f"{len(places)} places fit\n{diff}"
    return text[: places[0]] + after + text[places[0] + len(before) :]
