"""A comparison as a user runs it: folder, restart, protocols, mistakes."""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import compare, experiment, machine
from experiments.contests import comparison, contest
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
PRESETS = [
    path
    for path in sorted((ROOT / "experiments" / "presets").glob("*.flags"))
    if "experiments.compare" in path.read_text().splitlines()[0]
]
SMALL = (
    "--num_teams=2",
    "--devices_per_team=2",
    "--num_rounds=2",
    "--team_steps=2",
    "--device_steps=2",
    "--batch_size=8",
    "--chips=1",
    "--seeds=0,1",
)


def ask(*given):
    with flagsaver.flagsaver():
        flags.FLAGS(["compare", *given])
        return compare.from_flags(flags.FLAGS)


@pytest.fixture(autouse=True)
def leaves_the_process_alone(monkeypatch):
    monkeypatch.setattr(machine, "set_precision", lambda name: None)
    monkeypatch.chdir(ROOT)  # presets name other presets from the root


@pytest.fixture
def computed(monkeypatch):
    """Names of the cells that are computed, as they are."""
    names = []
    run = contest.run

    def counted(entry, protocol):
        names.append((entry.column.name, entry.name))
        return run(entry, protocol)

    monkeypatch.setattr(contest, "run", counted)
    return names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished fair comparison of two methods."""
    folder = tmp_path_factory.mktemp("compare") / "fair"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_precision", lambda name: None)
        comparison.run(ask(*SMALL, "--methods=permfl,local", f"--workdir={folder}"))
    return folder


def test_a_comparison_leaves_everything_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"table.md", "table.csv", "table.json", "figure.png", "config.json"}
    assert (finished / "figure.png").read_bytes().startswith(b"\x89PNG")
    text = (finished / "table.md").read_text()
    for word in ("`fair` protocol", "majority (floor)", "local (floor)", "| permfl |"):
        assert word in text
    for word in ("T = 2, K = 2, L = 2, B = 8", "seeds 0, 1", "seed 2", "Commit "):
        assert word in text
    content = json.loads((finished / "table.json").read_text())
    read = list(csv.DictReader(io.StringIO((finished / "table.csv").read_text())))
    assert [row["method"] for row in read] == ["majority", "local", "permfl"]
    for text, row in zip(read, content["rows"], strict=True):
        for name, value in row.items():
            same = float(text[name]) == value if isinstance(value, float) else True
            assert same, name


def test_a_cell_holds_what_was_tried_and_each_model_its_own_choice(finished):
    cell = json.loads((finished / "cells/digits_mclr/permfl.json").read_text())
    assert len(cell["tuning"]) == 8
    for label in ("PM", "TM", "GM"):
        tried = [result["validation"][label] for result in cell["tuning"]]
        own = cell["labels"][label]
        assert own["validation"] == max(tried)
        assert own["hparams"] == cell["tuning"][tried.index(max(tried))]["hparams"]
        assert len(own["accuracy"]) == 2
    # 2 team steps for 4 devices up, 2 teams; a digits model is 64 x 10 + 10 numbers.
    assert cell["labels"]["GM"]["traffic"]["device_up"] == 2 * 4
    assert cell["labels"]["GM"]["traffic"]["team_down"] == 2
    assert cell["parameters"] == 650
    assert cell["gradients_per_round"] == 4


def test_again_computes_nothing_and_more_methods_only_themselves(finished, computed):
    files = sorted((finished / "cells").rglob("*.json"))
    before = [path.stat().st_mtime_ns for path in files]
    table = (finished / "table.csv").read_text()
    comparison.run(ask(*SMALL, "--methods=permfl,local", f"--workdir={finished}"))
    assert computed == []
    assert [path.stat().st_mtime_ns for path in files] == before
    assert (finished / "table.csv").read_text() == table
    more = ask(*SMALL, "--methods=permfl,local,fedavg", f"--workdir={finished}")
    comparison.run(more)
    assert computed == [("digits_mclr", "fedavg")]
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_stopped_comparison_goes_on_and_gives_the_same(
    finished, computed, monkeypatch, tmp_path, capsys
):
    asked = ask(*SMALL, "--methods=local,permfl", f"--workdir={tmp_path / 'run'}")
    counted = contest.run

    def stopped(entry, protocol):
        if entry.name == "permfl":
            raise KeyboardInterrupt
        return counted(entry, protocol)

    with monkeypatch.context() as patch:
        patch.setattr(contest, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            comparison.run(asked)
    assert not (tmp_path / "run" / "table.md").exists()
    comparison.run(asked)
    assert computed == [("digits_mclr", "local"), ("digits_mclr", "permfl")]
    assert "1 finished cells are kept" in capsys.readouterr().err
    for method in ("local", "permfl"):
        ours, theirs = (
            json.loads((folder / f"cells/digits_mclr/{method}.json").read_text())
            for folder in (tmp_path / "run", finished)
        )
        assert ours["labels"] == theirs["labels"]


def test_protocols_and_settings_are_never_mixed(finished, computed):
    same = f"--workdir={finished}"
    with pytest.raises(InputError, match=r"different run \(differing: protocol\)"):
        comparison.run(ask(*SMALL, "--methods=local", "--protocol=paper", same))
    with pytest.raises(InputError, match=r"other settings \(differing: .*l2"):
        comparison.run(ask(*SMALL, "--methods=local", "--l2=0.1", same))
    with pytest.raises(InputError, match=r"\(differing: seeds, tuning_seeds\)"):
        comparison.run(ask(*SMALL, "--methods=local", "--seeds=5", same))
    assert computed == []


def test_the_paper_protocol_reports_the_best_round_beside_the_last(tmp_path):
    folder = tmp_path / "paper"
    flag = (*SMALL, "--protocol=paper", "--methods=permfl", "--validation_fraction=0")
    comparison.run(ask(*flag, "--hparam=permfl.device_lr=0.3", f"--workdir={folder}"))
    cell = json.loads((folder / "cells/digits_mclr/permfl.json").read_text())
    assert "tuning" not in cell
    for own in cell["labels"].values():
        assert own["hparams"]["device_lr"] == 0.3
        assert own["hparams"]["device_prox"] == 0.5
        for best, run in zip(own["best_accuracy"], own["curve"], strict=True):
            assert best == max(value for _, value in run)
        assert [run[-1][1] for run in own["curve"]] == own["accuracy"]
    text = (folder / "table.md").read_text()
    assert "second-hand" in text
    assert "PM published" in text


def test_five_gradients_on_a_mini_batch_must_divide_the_steps(computed, tmp_path):
    flag = (*SMALL, "--seeds=0", "--methods=pfedbayes", f"--workdir={tmp_path}/run")
    with pytest.raises(InputError, match="divisible by 5, got 6"):
        comparison.run(ask(*flag, "--team_steps=3", "--device_steps=2"))
    assert computed == []


def test_a_method_of_two_gradients_gets_half_the_team_steps(computed, tmp_path):
    folder = tmp_path / "run"
    flag = (*SMALL, "--seeds=0", "--methods=ditto", f"--workdir={folder}")
    with pytest.raises(InputError, match="needs --team_steps divisible by 2, got 3"):
        comparison.run(ask(*flag, "--team_steps=3"))
    assert computed == []
    comparison.run(ask(*flag))
    cell = json.loads((folder / "cells/digits_mclr/ditto.json").read_text())
    assert (cell["team_steps"], cell["gradients_per_round"]) == (1, 4)
    assert "±" not in (folder / "table.md").read_text().split("|---")[1]


BAD = [
    (["--methods=permfl,fedsgd"], "--methods=fedsgd is unknown; choose from permfl"),
    (["--methods=local,local"], "--methods=local is given twice"),
    (["--protocol=best"], "--protocol=best is unknown; choose from fair, paper"),
    (["--seeds=0,x"], "--seeds=0,x must list whole numbers"),
    (["--tuning_seeds=-1"], "--tuning_seeds=-1 must list whole numbers"),
    (["--algorithm=permfl"], "a comparison takes --methods"),
    (["--hparam=device_lr=1"], "must read --hparam=METHOD.name=value"),
    (["--hparam=fedsgd.lr=1"], "with METHOD one of permfl"),
    (["--hparam=local.team_prox=1"], "local: .*choose from device_lr"),
    (["--hparam=permfl.device_lr=1"], "sets what the fair protocol tunes"),
    (["--grid_lr=0"], "--grid_lr must be above 0"),
    (["--tuning_rounds=0"], "--tuning_rounds must be at least 1"),
    (["--validation_fraction=0"], "--validation_fraction=0 leaves none"),
    (["--column=digits"], "must read --column=NAME: --flag=value"),
    (["--column=a/b: --l2=1"], "must read --column=NAME"),
    (["--column=a: --l2=1", "--column=a: --l2=2"], "--column=a is given twice"),
    (["--column=a: --l3=1"], "--column=a: Unknown command line flag 'l3'"),
    (["--column=a: --seeds=1"], "--column=a: Unknown command line flag 'seeds'"),
    (["--column=a: --num_rounds=x"], "--column=a: .*num_rounds"),
    (["--column=a: --num_rounds=0"], "--column=a: --num_rounds must be at least 1"),
    (["--column=a: --workdir=x"], "--column=a: --workdir is not for one column"),
    (["--column=a: mnist"], "--column=a: unexpected argument 'mnist'"),
    (["--column=a: --l2='1"], "--column=a: No closing quotation"),
    (["--column=a: --dataset=mnst"], "--column=a: --dataset=mnst is unknown; choose"),
    (["--column=a: --model=mlp"], "--column=a: --model=mlp is unknown; choose from"),
    (["--column=a: --partition=x"], "--column=a: --partition=x is unknown; choose"),
    (["--team_formation=x"], "--team_formation=x is unknown; choose from"),
    (["--nokeep_personal", "--methods=local"], "leaves --algorithm=local nothing"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_mistakes_get_one_sentence_before_data_is_read(
    given, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment, "build", lambda settings: pytest.fail("read"))
    few = () if any("--methods" in text for text in given) else ("--methods=permfl",)
    with pytest.raises(InputError, match=words) as caught:
        comparison.run(ask(*SMALL, *few, f"--workdir={tmp_path / 'run'}", *given))
    assert "\n" not in str(caught.value)


def test_one_process_computes_a_comparison():
    with pytest.raises(InputError, match="without --distributed"):
        ask("--distributed")


def test_a_mistake_ends_the_program_without_a_traceback(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.compare", "--methods=fedsgd"),
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("experiments.compare: --methods=fedsgd is unknown")


def test_columns_replace_the_common_flags_and_leave_them_alone():
    asked = ask(
        *SMALL,
        "--hparam=permfl.device_pull=2",
        "--column=a: --num_rounds=6 --grid_lr=5 --hparam=permfl.device_pull=3",
        "--column=b: --dataset=synthetic --eval_every=1 --tuning_rounds=1",
    )
    a, b = asked.columns
    assert (a.config.num_rounds, a.grid_lr, a.tuning_rounds) == (6, 5.0, 6)
    assert (b.config.num_rounds, b.grid_lr, b.tuning_rounds) == (2, 0.05, 1)
    assert a.config.dataset == "digits"
    assert (a.fixed("permfl"), b.fixed("permfl")) == (
        ("device_pull=3.0",),
        ("device_pull=2.0",),
    )
    # Scored at the last round alone, unless curves are asked for.
    assert (a.config.eval_every, b.config.eval_every) == (6, 1)
    assert asked.tuning_seeds == (2,)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_parse_and_suit_their_methods(path):
    asked = ask(f"--flagfile={path}")
    comparison.check(asked)
    header = path.read_text().splitlines()[0]
    assert f"--flagfile=experiments/presets/{path.name}" in header
    assert asked.workdir == f"runs/{path.stem}"
    if path.stem.startswith("table1"):
        assert asked.methods == list(ALGORITHMS)
        assert len(asked.seeds) >= 5
