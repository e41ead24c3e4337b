"""The pages build without a warning, and the reference has everything."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from pages import DOCS, ROOT

NEEDED = ("sphinx", "myst_nb", "furo", "latex2mathml")
PROGRAM = "import sys; from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))"
STRICT = ("-W", "--keep-going", "-q", "-b", "html")


def build(source, folder):
    """In a process of its own: Sphinx warns of its own libraries."""
    flags = (*STRICT, "-d", folder / "trees")
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags, source, folder / "html"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("docs")
    done = build(DOCS, folder)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def text(path):
    return path.read_text(encoding="utf-8")


def test_every_page_is_there(html):
    for page in DOCS.rglob("*.md"):
        assert (html / page.relative_to(DOCS)).with_suffix(".html").exists(), page
    for book in (ROOT / "experiments" / "colab").glob("*.ipynb"):
        assert (html / "notebooks" / f"{book.stem}.html").exists()


def test_every_module_is_in_the_reference_once(html):
    pages = [text(path) for path in (html / "api").glob("*.html")]
    found = [
        name for page in pages for name in re.findall(r'id="module-([\w.]+)"', page)
    ]
    assert len(found) == len(set(found))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "permfl_jax").rglob("*.py")
        if path != ROOT / "permfl_jax" / "__init__.py"
    }
    assert set(found) == modules


def test_functions_lead_to_their_equations_and_their_source(html):
    page = text(html / "api" / "algorithms.html")
    step = page[page.index('id="permfl_jax.algorithms.permfl.team_step"') :][:8000]
    assert 'href="../mathematics.html#eq-team"' in step
    assert "_modules/permfl_jax/algorithms/permfl.html#team_step" in step


def test_equations_are_drawn_without_a_script_or_the_network(html):
    page = text(html / "mathematics.html")
    assert page.count("<math") > 20
    for formula in re.findall(r"<math.*?</math>", page, re.DOTALL):
        shown = re.sub(r"<[^>]+>", "", formula).replace("&#x", "")
        assert "\\" not in shown, formula  # TeX that was not understood
        assert "&amp;" not in shown, formula
    assert "MathJax" not in page
    fetched = re.findall(r'(?:src|href)="(https?:[^"]+)"', page)
    assert not [link for link in fetched if link.endswith((".js", ".css"))]


def test_docstrings_are_shown_as_they_are_meant(html):
    page = text(html / "api" / "library.html")
    assert "Alias for field number" not in page
    assert "problematic" not in page  # what docutils could not read
    assert "max(|1 - step·low|, |1 - step·high|)" in page


def test_a_page_with_a_fault_is_refused(html, tmp_path):
    """The same options do find a dead link."""
    del html
    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text('extensions = ["myst_nb"]\n')
    (source / "index.md").write_text("# Title\n\n[gone](nowhere.md)\n")
    done = build(source, tmp_path)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
