"""The pages "Add ..." are followed word for word, in a copy of the checkout."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from pages import ROOT, blocks, patched

PAGES = ("add_formation", "add_model", "add_dataset", "add_algorithm")
COPIED = ("permfl_jax", "experiments", "tests", "setup.cfg", "pyproject.toml")


def copy(folder):
    ignored = shutil.ignore_patterns("__pycache__", "*.ipynb")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)


def run(command, folder):
    """A command of a page, as typed in the folder of the checkout."""
    python, *arguments = shlex.split(command)
    assert python == "python", command
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def follow(page, folder):
    """Does what the page says, in its order; returns what each command printed."""
    printed = {}
    for language, file, text in blocks(f"{page}.md"):
        if language == "python":
            assert not (folder / file).exists(), f"{file} is there already"
            (folder / file).write_text(text, encoding="utf-8")
        elif language == "diff":
            changed = patched((folder / file).read_text(encoding="utf-8"), text)
            (folder / file).write_text(changed, encoding="utf-8")
        else:
            assert language == "bash", language
            for command in text.splitlines():
                printed[command] = run(command, folder)
    return printed


@pytest.mark.parametrize("page", PAGES)
def test_following_the_page_ends_in_a_trained_model(page, tmp_path):
    copy(tmp_path)
    printed = follow(page, tmp_path)
    (trained,) = [line for line in printed if "experiments.train" in line]
    assert "test accuracy, round 2" in printed[trained]
    folder = tmp_path / trained.partition("--workdir=")[2]
    last = json.loads((folder / "summary.json").read_text())["last"]
    assert last["round"] == 2
    assert 0 <= last["GM/accuracy"] <= 1
    tested = [line for line in printed if "pytest" in line]
    assert tested
    assert all(" passed" in printed[line] for line in tested)
    # What the page adds must be what was run, not the package that is installed.
    config = json.loads((folder / "config.json").read_text())["flags"]
    added = {
        "add_formation": ("team_formation", "by_label"),
        "add_model": ("model", "residual"),
        "add_dataset": ("dataset", "points"),
        "add_algorithm": ("algorithm", "fedavgm"),
    }
    flag, name = added[page]
    assert config[flag] == name
    lint(page, tmp_path)


def lint(page, folder):
    """What a page shows is as clean as what it is put beside."""
    ruff = shutil.which("ruff", path=str(pathlib.Path(sys.executable).parent))
    if ruff is None:
        return
    shown = [b.file for b in blocks(f"{page}.md") if b.file and b.file.endswith(".py")]
    shown = sorted({file for file in shown if "/" in file})
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *command, "--no-cache", *shown],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_change_that_fits_nowhere_or_twice_is_refused():
    assert patched("a\nb\nc\n", " b\n+x\n") == "a\nb\nx\nc\n"
    assert patched("a\nb\n", "-b\n+x\n") == "a\nx\n"
    for text in ("a\nc\n", "b\nb\n"):
        with pytest.raises(AssertionError, match="places fit"):
            patched(text, " b\n+x\n")
