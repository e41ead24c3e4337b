"""What is built holds what it should, and serves whoever has nothing else."""

import configparser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml  # flax needs it

import permfl_jax

ROOT = pathlib.Path(__file__).parents[1]
DEVELOPERS = (".*", "*.egg-info", "__pycache__", "runs", "build", "dist", "data")
TINY = (
    *("--num_teams=2", "--devices_per_team=2", "--num_rounds=2", "--team_steps=2"),
    *("--device_steps=2", "--nolocal_floor", "--chips=1"),
)
# Type-checked from outside: it uses what the README shows.
USER = """
import jax
import numpy as np

from permfl_jax import evaluate, federation, models, runner, task
from permfl_jax.algorithms.permfl import HParams, permfl
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation

rows = {"x": np.zeros((8, 4), np.float32), "y": np.zeros(8, np.int32)}
data: Federation = federation.from_arrays([rows, rows], ["a", "b"], num_classes=2)
spec = models.ModelSpec(dataset="mine", sample_shape=(4,), num_classes=2)
classify = task.classification(models.build("mclr", spec), rows["x"][0])
algorithm = permfl(classify.loss, Schedule(batch_size=4), Sampler.of(data))
key, hparams = jax.random.key(0), HParams(device_lr=0.1).traced()
start = runner.start(algorithm, classify.init(key), data)
for state, metrics in runner.run(algorithm, key, hparams, start, data, num_rounds=1):
    scored = evaluate.models_of(algorithm, key, hparams, state, data)
"""


def run(*command, cwd, **more):
    """A command in an environment that has no other way to this package."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | {"JAX_PLATFORMS": "cpu"} | more,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of sdist and wheel, made of a copy of this tree; no network."""
    for needed in ("build", "setuptools"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    folder = tmp_path_factory.mktemp("source") / "permfl_jax"
    shutil.copytree(ROOT, folder, ignore=_not_source)
    assert (folder / "tests").is_dir()  # so that their absence below means something
    (folder / "data").mkdir()
    (folder / "data" / "shared.npz").write_bytes(b"not ours")
    # The wheel is built from the sdist, as an installer without wheels would.
    run(sys.executable, "-m", "build", "--no-isolation", cwd=folder)
    return folder / "dist"


def _not_source(folder, names):
    """Of the top folder, what git does not keep; everywhere, what Python left."""
    patterns = DEVELOPERS if pathlib.Path(folder) == ROOT else ("__pycache__",)
    return shutil.ignore_patterns(*patterns)(folder, names)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder that the wheel is installed into."""
    pytest.importorskip("pip", reason="pip is not installed")
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet")
    run(*pip, "--target", folder, wheel, cwd=folder)
    return folder


def package_files():
    """Where every file of the two packages should be in the wheel."""
    found = {}
    for package, place in (
        ("permfl_jax", "permfl_jax"),
        ("experiments", "permfl_jax/experiments"),
    ):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".flags", ".npz", ".typed", ".md"):
                inside = path.relative_to(ROOT / package).as_posix()
                found[f"{place}/{inside}"] = path
    return {place: path for place, path in found.items() if "/colab/" not in place}


def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_the_packages_named_are_the_folders_that_exist():
    named = setup()["options"]["packages"].split()
    exist = {
        place.rpartition("/")[0].replace("/", ".")
        for place in package_files()
        if place.endswith(".py")
    }
    assert sorted(named) == sorted(exist)


def test_commands_named_exist():
    scripts = setup()["options.entry_points"]["console_scripts"].split("\n")
    named = dict(re.split(r"\s*=\s*", line) for line in scripts if line)
    for command, target in named.items():
        module, _, function = target.partition(":")
        path = ROOT / f"{module.removeprefix('permfl_jax.').replace('.', '/')}.py"
        assert f"def {function}()" in path.read_text(encoding="utf-8"), command
        assert command == f"permfl-{path.stem}"


def test_the_wheel_holds_the_packages_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = [n for n in archive.namelist() if ".dist-info/" not in n]
        extra = {n.partition(".dist-info/")[2] for n in archive.namelist()}
        same = [
            archive.read(place) == path.read_bytes()
            for place, path in package_files().items()
            if place in held
        ]
    assert sorted(held) == sorted(package_files())
    assert all(same)
    assert {"licenses/LICENSE", "METADATA", "entry_points.txt"} <= extra
    assert "permfl_jax/py.typed" in held
    assert "permfl_jax/experiments/presets/quickstart.flags" in held


def test_the_sdist_holds_what_the_wheel_is_made_of(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
    held = {member.name.partition("/")[2] for member in files}
    sources = {path.relative_to(ROOT).as_posix() for path in package_files().values()}
    assert held >= sources
    assert held >= {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"}
    others = {name for name in held - sources if "/" in name}
    assert all(name.startswith("permfl_jax.egg-info/") for name in others), others
    assert max(member.size for member in files) < 2**20


def test_whoever_has_only_the_wheel_can_train(installed, tmp_path):
    train = (sys.executable, "-m", "permfl_jax.experiments.train")
    printed = run(
        *(*train, "--preset=quickstart", *TINY, f"--workdir={tmp_path / 'run'}"),
        cwd=tmp_path,
        PYTHONPATH=str(installed),
        HOME=str(tmp_path),
    )
    assert "PM  personal models" in printed
    assert (tmp_path / "run" / "summary.json").exists()
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["flags"]
    assert (settings["classes_per_device"], settings["num_rounds"]) == (5, 2)


def test_commands_of_the_wheel_use_the_wheel(installed, tmp_path):
    program = (
        "import sys\n"
        "import permfl_jax.experiments.train, permfl_jax.experiments.compare\n"
        "ours = [m for n, m in sys.modules.items() if n.startswith('permfl_jax')]\n"
        "print(*sorted({m.__file__ for m in ours}), sep='\\n')\n"
        "print(permfl_jax.experiments.command_line.PRESETS)\n"
        "assert 'experiments' not in sys.modules\n"
    )
    path = {"PYTHONPATH": str(installed)}
    files = run(sys.executable, "-c", program, cwd=tmp_path, **path).splitlines()
    assert len(files) > 60
    assert all(file.startswith(str(installed)) for file in files)
    page = run(installed / "bin" / "permfl-compare", "--help", cwd=tmp_path, **path)
    assert "    permfl-compare --preset=compare_quick\n" in page
    assert "python -m" not in page


def test_programs_of_users_type_check_against_the_wheel(installed, tmp_path):
    pyrefly = pathlib.Path(sys.executable).with_name("pyrefly")
    if not pyrefly.exists():
        pytest.skip("pyrefly is not installed")
    (tmp_path / "pyrefly.toml").write_text('preset = "strict"')
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(USER)
    bad.write_text(USER + 'runner.start(algorithm, classify.init("key"), 3)\n')
    check = (pyrefly, "check", "--search-path", installed, "--python-interpreter-path")
    run(*check, sys.executable, good, cwd=tmp_path)
    with pytest.raises(AssertionError, match="bad-argument-type"):
        run(*check, sys.executable, bad, cwd=tmp_path)


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == permfl_jax.__version__
    assert cited["license"] == setup()["metadata"]["license_expression"]
    (paper,) = cited["references"]
    assert "2407.14251" in paper["url"]
    assert len(paper["authors"]) == 4


def test_hooks_need_no_network():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = []
    for repo in config["repos"]:
        assert repo["repo"] == "local"
        hooks += repo["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)
    entries = " ".join(hook["entry"] for hook in hooks)
    for tool in ("ruff check", "ruff format", "pyrefly check"):
        assert f".venv/bin/{tool}" in entries
