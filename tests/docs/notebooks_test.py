"""The notebooks of experiments/colab run from first to last cell, on short settings."""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "experiments" / "colab").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
# A process of its own: what Jupyter imports warns, and tests turn warnings into errors.
EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(book)
nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code(path):
    return [
        "".join(c["source"]) for c in read(path)["cells"] if c["cell_type"] == "code"
    ]


def execute(path, folder, **more):
    """Runs a notebook; returns what it printed and how many figures it drew."""
    done = folder / "done.ipynb"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PERMFL_NOTEBOOK_SHORT": "1",
        "PYTHONPATH": str(ROOT),
        **more,
    }
    result = subprocess.run(
        [sys.executable, "-c", EXECUTE, path, done],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    outputs = [o for c in read(done)["cells"] for o in c.get("outputs", [])]
    printed = "".join("".join(o["text"]) for o in outputs if o.get("name") == "stdout")
    drawn = sum("image/png" in o.get("data", {}) for o in outputs)
    return printed, drawn


@pytest.fixture
def jupyter():
    for module in ("nbclient", "nbformat", "ipykernel"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[docs]'")


@pytest.mark.usefixtures("jupyter")
@pytest.mark.parametrize(
    ("name", "says", "figures"),
    [
        ("quickstart", ["40 devices", "PM test accuracy", "better with a model"], 3),
        ("bring_your_own", ["(4, 2)", "PM test accuracy", "slope of the median"], 0),
        (
            "tpu_large_federation",
            ["2 x cpu", "mesh: {'team': 2, 'device': 1}", "round 2: loss", "TM test"],
            0,
        ),
        ("convergence_rates", ["K = 40, L = 80: measured"], 2),
    ],
)
def test_every_cell_runs(name, says, figures, tmp_path):
    path = ROOT / "experiments" / "colab" / f"{name}.ipynb"
    printed, drawn = execute(path, tmp_path)
    for text in says:
        assert text in printed, printed
    assert drawn == figures


def test_there_are_four_and_all_are_run():
    assert NAMES == [
        "bring_your_own",
        "convergence_rates",
        "quickstart",
        "tpu_large_federation",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_nothing_is_left_of_a_run(path):
    for cell in read(path)["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert set(read(path)["metadata"]) <= {"kernelspec", "language_info"}


def install(monkeypatch, tmp_path, cell, installed):
    """What the first cell asks of pip, and the constraints it gives."""
    asked = []
    found = object() if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    exec(compile(cell, "first cell", "exec"), {})  # our own text
    return asked


def test_the_first_cell_keeps_the_jax_that_is_there(monkeypatch, tmp_path):
    (cell,) = {code(path)[0] for path in NOTEBOOKS}  # the same in all
    (command,) = install(monkeypatch, tmp_path, cell, installed=False)
    assert command[1:4] == ["-m", "pip", "install"]
    assert command[-1] == "git+https://github.com/OWNER/permfl_jax"
    assert command[command.index("-c") + 1] == tmp_path / "constraints.txt"
    kept = (tmp_path / "constraints.txt").read_text().splitlines()
    for name in ("jax", "jaxlib", "flax", "numpy"):
        assert f"{name}=={importlib.metadata.version(name)}" in kept
    assert not any(line.startswith("permfl") for line in kept)


def test_the_first_cell_does_nothing_where_the_package_is(monkeypatch, tmp_path):
    assert install(monkeypatch, tmp_path, code(NOTEBOOKS[0])[0], installed=True) == []
