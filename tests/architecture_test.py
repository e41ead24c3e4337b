"""The house stands: imports point down, docstrings tell the truth, tests exist."""

import ast
import dataclasses
import importlib
import pathlib
import re
import subprocess
import sys

import flax.linen as nn
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "permfl_jax"

# A module may import its own floor and lower ones. Folders are one room: what is in
# them may import each other.
FLOORS = [
    {"errors", "plain_files", "types"},
    {"schedule", "uplink", "hparams", "keys", "tree", "linkage", "shuffle", "batches"}
    | {"theory", "bounds", "stability", "random_effects"},
    {"hosts", "meshes", "placement", "pooling"},
    {"rules", "gradient", "weighting", "cohort", "participation", "local", "split"}
    | {"federation", "task", "traffic"},
    {"aggregation", "flat", "reading", "spreads", "pulls", "reach", "uploads"},
    {"models"},
    {"data", "partitions", "teams", "measure", "quadratics", "closed_forms"},
    {"assemble", "advice"},
    {"algorithms"},
    {"scores"},
    {"runner", "sweep", "evaluate", "checkpoints", "provenance", "seals", "deploy"}
    | {"leaves"},
    {"probes", "results", "checked", "row_file", "regroup"},
]
# A method sees a loss and a federation, never where they come from.
FORBIDDEN = {"algorithms": {"data", "models", "partitions", "teams", "assemble"}}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules():
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def imported_rooms(path):
    """Rooms of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "permfl_jax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "permfl_jax":
                yield parts[1]
            assert parts[0] != "experiments", f"{path} imports experiments"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith(("permfl_jax", "experiments")), path


def floor_of(name):
    (floor,) = [i for i, rooms in enumerate(FLOORS) if name in rooms]
    return floor


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    for name in imported_rooms(path):
        assert floor_of(name) <= floor_of(room(path)), f"{path} imports {name}"
        assert name not in FORBIDDEN.get(room(path), set()), f"{path} imports {name}"


@pytest.mark.parametrize("room_", ["runner", "sweep", "evaluate", "results"])
def test_no_method_is_known_by_name(room_):
    text = (PACKAGE / f"{room_}.py").read_text(encoding="utf-8")
    for name in importlib.import_module("permfl_jax.algorithms").ALGORITHMS:
        assert f'"{name}"' not in text


def documented_classes():
    for path in modules():
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        module = importlib.import_module(dotted.removesuffix(".__init__"))
        for value in vars(module).values():
            public = isinstance(value, type) and not value.__name__.startswith("_")
            if public and value.__module__ == module.__name__:
                fields = getattr(value, "_fields", None)
                if dataclasses.is_dataclass(value):
                    fields = tuple(f.name for f in dataclasses.fields(value))
                if issubclass(value, nn.Module):
                    fields = tuple(f for f in fields if f not in ("parent", "name"))
                if fields:
                    yield pytest.param(value, fields, id=value.__qualname__)


@pytest.mark.parametrize(("cls", "fields"), list(documented_classes()))
def test_docstrings_list_exactly_the_fields(cls, fields):
    section = re.search(r"Attributes:\n(.*?)(\n\n|\Z)", cls.__doc__ or "", re.DOTALL)
    assert section, f"{cls} has no Attributes section"
    listed = re.findall(r"^\s{2,6}(\w+):", section[1], re.MULTILINE)
    assert tuple(listed) == fields


@pytest.mark.parametrize(
    "folder", ["algorithms", "data", "partitions", "teams"], ids=str
)
def test_every_registered_thing_has_a_test(folder):
    registry = importlib.import_module(f"permfl_jax.{folder}")
    for name in next(
        value for key, value in vars(registry).items() if key.isupper() and value
    ):
        assert (ROOT / "tests" / folder / f"{name}_test.py").exists(), name


def test_importing_the_package_is_cheap_and_touches_no_device():
    program = (
        "import sys, permfl_jax.algorithms, permfl_jax.runner, permfl_jax.evaluate\n"
        "import permfl_jax.assemble\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'orbax', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from jax.extend import backend\n"
        "import jax._src.xla_bridge as bridge\n"
        "print(bridge._backends)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    heavy, backends = done.stdout.splitlines()
    # flax imports orbax by itself.
    assert heavy in ("[]", "['orbax']")
    assert backends == "{}"


def test_no_deprecated_or_private_api():
    banned = re.compile(
        r"jnp\.empty|jax\.pmap|jax\.tree_map|PRNGKey|jax\._src|optax\.global_norm"
        r"|from __future__"
    )
    for path in [*modules(), *(ROOT / "experiments").rglob("*.py")]:
        assert not banned.search(path.read_text(encoding="utf-8")), path


def test_files_and_functions_stay_small():
    for path in [*modules(), *(ROOT / "experiments").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path}: {node.name} has {length} lines"
