"""README and BUILD.md tell the truth about what can be run."""

import pathlib
import re

import pytest

from permfl_jax import algorithms, data, models, partitions, teams

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BUILD = (ROOT / "BUILD.md").read_text(encoding="utf-8")


def test_the_library_example_runs(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(program, "README.md", "exec"), {})  # our own text
    printed = [float(word) for word in capsys.readouterr().out.split()]
    assert len(printed) == 3
    assert all(0 <= value <= 1 for value in printed)


@pytest.mark.parametrize(
    "registry",
    [
        algorithms.ALGORITHMS,
        data.DATASETS,
        models.MODELS,
        partitions.PARTITIONS,
        teams.FORMATIONS,
    ],
)
def test_every_name_is_listed(registry):
    for name in registry:
        assert f"`{name}`" in README, name


def test_files_and_targets_named_exist():
    for path in re.findall(r"\]\((\w[\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make (\w+)`", README + BUILD)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_demo_table_is_that_of_the_preset():
    header = (ROOT / "experiments/presets/quickstart.flags").read_text()
    for label in ("PM", "TM", "GM"):
        (shown,) = re.findall(rf"^{label}  .*?(\d+\.\d+)%", README, re.MULTILINE)
        assert f"{label} {shown}%" in header
