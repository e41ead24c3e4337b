"""Every preset parses, says what it gives, and the quick one really gives it."""

import pathlib

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, experiment, job, session
from permfl_jax import algorithms, hparams

ROOT = pathlib.Path(__file__).parents[2]
ALL = sorted((ROOT / "experiments" / "presets").glob("*.flags"))
PRESETS = [p for p in ALL if "python -m experiments.train" in p.read_text()]
COMPARISONS = [p for p in ALL if p not in PRESETS]  # compare_test.py parses them


def parse(path, *more):
    with flagsaver.flagsaver():
        flags.FLAGS(["train", f"--flagfile={path}", *more])
        return config.from_flags(flags.FLAGS)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # presets name other presets from the root


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_parse_and_build_their_method(path):
    settings = parse(path)
    experiment.rounds_per_call(settings)
    method = algorithms.get(settings.algorithm)
    hparams.parse(method.hparams, settings.hparam)


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_headers_give_command_result_and_time(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"--flagfile=experiments/presets/{path.name}" in header[0]
    text = "\n".join(header)
    for word in ("PM", "TM", "GM", "%", " s", "cores"):
        assert word in text, f"{path.name} header lacks {word!r}"


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: p.stem)
def test_comparisons_give_their_command_and_where_results_are(path):
    first, *rest = path.read_text().splitlines()
    command = (
        f"python -m experiments.compare --flagfile=experiments/presets/{path.name}"
    )
    assert first.startswith(f"# {command}")
    assert any("docs/results.md" in line for line in rest if line.startswith("#"))


def test_quickstart_gives_what_its_header_says():
    """PM, TM and GM to a point (other machines round differently)."""
    path = ROOT / "experiments" / "presets" / "quickstart.flags"
    promised = [
        float(word.removesuffix("%"))
        for word in path.read_text().split()
        if word.endswith("%")
    ][:3]
    built = experiment.build(parse(path))
    begin = session.Begin(job.start(built), [], 0.0)
    last = job.train(built, begin, lambda row: None, lambda *_: None)[-1]
    got = [100 * last[f"{label}/accuracy"] for label in ("PM", "TM", "GM")]
    assert got == pytest.approx(promised, abs=1.0)
    # What the demo is there to show: personal beats team beats alone.
    alone = 100 * job.floors(built)["local/accuracy"]
    assert got[0] > alone + 3
