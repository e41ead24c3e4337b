"""The tutorial's commands and programs run, and print what it says."""

import contextlib
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from pages import ROOT, blocks

NUMBER = re.compile(r"\d+\.\d+")
TOLERANCE = 0.03  # of accuracies: other machines add in another order


def assert_printed(said, expected):
    """Line by line; … stands for anything, numbers with a point may differ a little."""
    lines, wanted = said.splitlines(), expected.splitlines()
    assert len(lines) == len(wanted), said
    for line, want in zip(lines, wanted, strict=True):
        if want == "…":
            continue
        assert NUMBER.sub("#", line).split() == NUMBER.sub("#", want).split(), said
        numbers = [list(map(float, NUMBER.findall(text))) for text in (line, want)]
        assert numbers[0] == pytest.approx(numbers[1], abs=TOLERANCE), said


def test_the_programs_print_what_the_page_says():
    space, said, checked = {}, "", 0
    for language, _, text in blocks("tutorial.md"):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "tutorial.md", "exec"), space)  # our own text
            said = out.getvalue()
        elif language == "text":
            assert_printed(said, text)
            checked += 1
    assert checked == 5


def test_the_command_leaves_what_the_page_says(tmp_path):
    (command,) = [
        line
        for block in blocks("tutorial.md")
        if block.language == "bash"
        for line in block.text.splitlines()
        if line.startswith("python ")
    ]
    subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    left = {path.name for path in (tmp_path / "runs/tutorial").iterdir()}
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    named = {
        n for n in re.findall(r"`([\w.]+)`", page) if n.endswith(("json", "jsonl"))
    }
    assert named == {"metrics.jsonl", "summary.json", "config.json"}
    assert named | {"curves.png", "partition.npz"} <= left


def test_other_numbers_are_noticed():
    assert_printed("PM 0.97\nx", "PM 0.98\n…")
    for said in ("PM 0.90", "TM 0.98", "PM 0.98\nPM 0.98"):
        with pytest.raises(AssertionError):
            assert_printed(said, "PM 0.98")
