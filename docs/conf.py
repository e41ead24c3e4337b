"""Sphinx: `sphinx-build -W --keep-going -b html docs OUTPUT`; nothing is fetched."""

import pathlib
import re
import sys

from docutils import nodes
from latex2mathml import converter

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import permfl_jax  # noqa: E402  the checkout's, whatever is installed

project = "permfl_jax"
author = "the authors of permfl_jax"
version = release = permfl_jax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"permfl_jax {version}"
html_show_copyright = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_heading_anchors = 3
# Notebooks are run by tests/docs/notebooks_test.py, and are shown here as they are.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
napoleon_use_ivar = True
napoleon_attr_annotations = False  # types stand in the signature

_SECTION = re.compile(
    r"(Args|Attributes|Examples?|Notes?|Raises|References|Returns|Yields):$"
)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_FIELDS = re.compile(r"Alias for field number \d+")


def _equations():
    """Function to the labels of the equations that link to it."""
    text = (DOCS / "mathematics.md").read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^(?=\(eq-)", text, flags=re.MULTILINE)[1:]:
        label = re.match(r"\((eq-[\w-]+)\)=", part)[1]
        for target in re.findall(r"\{py:\w+\}`~?([\w.]+)`", part):
            found.setdefault(target, []).append(label)
    return found


EQUATIONS = _equations()


def to_rst(lines):
    """Docstrings are plain text with `code`: made into what Sphinx reads.

    Paragraphs set in before the first section are shown as they are (equations).

    Args:
      lines: of one docstring.

    Returns:
      Lines of reStructuredText.
    """
    result, literal, doctest, sections = [], False, False, False
    for line in lines:
        inset = line.startswith(" ") and not sections
        sections = sections or bool(_SECTION.match(line))
        doctest = line.lstrip().startswith(">>>") or (doctest and bool(line.strip()))
        starts_inset = inset and not literal and result and not result[-1].strip()
        if starts_inset and not re.match(r"\s+(\* |- |\d+\. )", line):
            result += ["::", ""]
            literal = True
        literal = literal and (inset or not line.strip())
        if not literal and not doctest:
            line = _CODE.sub(r"``\1``", line.replace("\\", r"\\"))
            # A bar begins a substitution in reStructuredText, but not in code.
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            line = "".join(parts)
        result.append(line)
    return result


def _read_docstring(app, what, name, obj, options, lines):
    del app, what, obj, options
    lines[:] = to_rst(lines)
    if name in EQUATIONS:
        links = ", ".join(f":ref:`{label}`" for label in EQUATIONS[name])
        lines += ["", f"Equations: {links}.", ""]


def _skip(app, what, name, obj, skip, options):
    """A NamedTuple's fields are told in its docstring."""
    del app, what, name, options
    return True if _FIELDS.match(getattr(obj, "__doc__", None) or "") else skip


def _modules(app, docname, source):
    """Pages of the reference name modules or folders; these become directives."""
    del app
    if docname == "tables":
        files = sorted(path.parent.name for path in DOCS.glob("results/*/table.md"))
        pages = [f"{name} <results/{name}/table>" for name in files]
        studies = sorted(path.stem for path in DOCS.glob("science/*.md"))
        pages += [f"{name} <science/{name}>" for name in studies]
        tree = "\n".join(pages)
        source[0] = source[0].replace("%tables", f"```{{toctree}}\n{tree}\n```")
    if not docname.startswith("api/"):
        return
    package = DOCS.parent / "permfl_jax"
    all_ = {path.stem for path in package.glob("*.py")} - {"__init__"}
    named = (DOCS / "api" / "library.md").read_text(encoding="utf-8")
    rest = sorted(all_ - set(re.findall(r"^%module (\w+)$", named, re.MULTILINE)))

    def folder(match):
        files = sorted(path.stem for path in (package / match[1]).glob("*.py"))
        dotted = [f"{match[1]}.{name}" for name in files]
        return "\n".join(_directive(name.removesuffix(".__init__")) for name in dotted)

    text = re.sub(r"^%module (\w+)$", lambda m: _directive(m[1]), source[0], flags=re.M)
    text = re.sub(r"^%folder (\w+)$", folder, text, flags=re.M)
    source[0] = text.replace("%rest", "\n".join(map(_directive, rest)))


def _directive(name):
    body = f".. automodule:: permfl_jax.{name}"
    return f"## `{name}`\n\n```{{eval-rst}}\n{body}\n```\n"


def _inline(self, node):
    self.body.append(converter.convert(node.astext()))
    raise nodes.SkipNode


def _block(self, node):
    anchor = "".join(f'<span id="{i}"></span>' for i in node.get("ids", ()))
    mathml = converter.convert(node.astext().strip(), display="block")
    style = "margin: 1em 0; overflow-x: auto"
    self.body.append(f'{anchor}<div class="math" style="{style}">{mathml}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Equations become MathML, which browsers draw without any script."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    # Before napoleon, which reads sections at 500.
    app.connect("autodoc-process-docstring", _read_docstring, priority=400)
    app.connect("autodoc-skip-member", _skip)
    app.connect("source-read", _modules)
