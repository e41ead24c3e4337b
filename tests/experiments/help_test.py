"""What programs share: --help, presets, flag files, and ends in one sentence."""

import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver
from hypothesis import given
from hypothesis import strategies as st

from experiments import command_line, config, help_page, program
from permfl_jax import algorithms
from permfl_jax.errors import DivergenceError, InputError

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = [
    path.stem
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
# Prints its seed, then ends as --end says.
SMALL = '''"""A small program.

    python -m experiments.small --end=well

It prints its seed.
"""
import sys
from absl import flags
from experiments import config, program

flags.DEFINE_string("end", "well", "How.")
flags.adopt_module_key_flags(config)

def main(argv):
    program.no_arguments(argv)
    print("seed", flags.FLAGS.seed)
    if flags.FLAGS.end == "bug":
        raise KeyError("x")

program.run(main, "experiments.small", interrupted="all is kept")
'''


def module(name):
    return importlib.import_module(f"experiments.{name}")


def own_flags(name):
    return flags.FLAGS.get_key_flags_for_module(module(name))


def page(name, width, *args, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    return help_page.page(module(name), flags.FLAGS, args)


def words(*args):
    return command_line.expand(args, flags.FLAGS)


def texts(*args):
    return [word.text for word in words(*args)]


def test_programs_are_found():
    assert {"train", "compare", "sweep", "benchmark", "bring_your_own"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_ends_through_the_shared_one(name):
    text = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    assert "program.run(" in text
    assert "app.run(" not in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_flag_has_a_group(name):
    found = help_page.grouped([flag.name for flag in own_flags(name)])
    assert "Other" not in found, "put them into help_page.GROUPS"


def test_groups_name_flags_that_exist_and_each_once():
    exist = {flag.name for name in PROGRAMS for flag in own_flags(name)}
    listed = [name for members in help_page.GROUPS.values() for name in members]
    assert set(listed) == exist
    assert len(listed) == len(set(listed))


def test_a_flag_without_a_group_is_shown_last():
    found = help_page.grouped(["zeta", "seed", "alpha"])
    assert found == {"Run": ["seed"], "Other": ["alpha", "zeta"]}


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("name", PROGRAMS)
def test_help_fits_the_terminal_and_has_every_flag(name, width, monkeypatch):
    text = page(name, width, monkeypatch=monkeypatch)
    shown = text.replace("[no]", "").splitlines()
    for flag in own_flags(name):
        assert flag.help
        assert any(line.startswith(f"  --{flag.name}") for line in shown), flag.name
    body = text[text.index("\n\n") :]
    commands = ("    python -m ", "python -m ", "        --")
    for line in body.splitlines():
        # A name cannot be broken: the longest are alone in their line.
        broken = len(line) <= width or len(line.split()) == 1
        assert broken or line.startswith(commands), line
    assert "logtostderr" not in text  # absl's own


def test_help_begins_with_the_command_and_shows_defaults(monkeypatch):
    text = page("compare", 80, monkeypatch=monkeypatch)
    assert text.index("python -m experiments.compare --preset=") < text.index("Data:")
    for line in (
        "  --num_teams=4            Teams M.",
        "  --teams_per_round=N      Teams m per global round. Default: all.",
        "  --seed=0                 Seed of everything random.",
        "  --hidden=A,B             Widths of dnn's one or two hidden layers.",
    ):
        assert line in text.splitlines()
    assert "Default: on." in text
    order = [text.index(f"\n{group}:\n") for group in help_page.grouped(_names(text))]
    assert order == sorted(order)


def _names(text):
    lines = [line.replace("[no]", "") for line in text.splitlines()]
    return [
        line[4:].partition("=")[0].split()[0] for line in lines if line[:4] == "  --"
    ]


def test_help_explains_the_chosen_method_and_lists_the_others(monkeypatch):
    text = page("sweep", 80, "--algorithm", "ditto", monkeypatch=monkeypatch)
    assert "--hparam of --algorithm=ditto, with defaults:" in text
    explained, others = text.split("--hparam of the other algorithms")
    assert "  personal_lr=" in explained
    assert "team_prox=1.5" in others
    for name in algorithms.ALGORITHMS:
        assert (f"\n  {name} " in others) == (name != "ditto")
    plain = page("sweep", 80, monkeypatch=monkeypatch)
    assert "team_prox=1.5            γ, pull between team and server." in plain


def test_words_without_files_stay_as_they_are():
    args = ["--seed", "--preset=x", "a", "--l2=1", "--local_floor", "b", "--"]
    assert texts(*args, "--preset=nothing") == [*args, "--preset=nothing"]


def test_a_preset_stands_where_it_was_named():
    found = texts("--seed=1", "--preset=quickstart", "--num_rounds=2")
    path = command_line.PRESETS / "quickstart.flags"
    lines = path.read_text(encoding="utf-8").splitlines()
    inside = [line for line in lines if line.startswith("--")]
    assert found == ["--seed=1", *inside, "--num_rounds=2"]
    assert texts("--preset", "quickstart") == inside
    assert texts("--local_floor", "--preset=quickstart") == ["--local_floor", *inside]
    assert texts(f"--flagfile={path}") == inside


def test_presets_that_name_others_work_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = texts("--preset=released_mnist_mclr")
    assert "--num_rounds=400" in found
    assert found.index("--batching=cyclic") > found.index("--num_rounds=400")


@pytest.mark.parametrize("name", command_line.presets())
def test_every_preset_is_spelled_out(name):
    assert all("file" not in text for text in texts(f"--preset={name}"))


def commands():
    """Every command line of our programs in the README, one line each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?:python -m experiments\.|permfl-)(\w+) (.*)$", text, re.M)
    return [(name, shlex.split(line, comments=True)) for name, line in found]


def test_commands_of_the_readme_name_flags_that_exist():
    assert len(commands()) >= 6
    for name, args in commands():
        own = own_flags(name)
        known = {f"--{flag.name}" for flag in own} | {"--help"}
        known |= {f"--no{flag.name}" for flag in own if flag.boolean}
        for text in texts(*args):
            assert text.partition("=")[0] in known, (name, text)


def test_programs_without_presets_leave_the_word_alone():
    found = command_line.expand(["--preset=quickstart"], flags.FlagValues())
    assert [word.text for word in found] == ["--preset=quickstart"]


BAD = [
    (["--preset=quick"], "--preset=quick is unknown; choose from cnn_short, "),
    (["--preset=../presets/quickstart"], "is unknown; choose from"),
    (["--preset"], "--preset= is unknown"),
    (["--flagfile=missing"], "--flagfile=missing cannot be read"),
    (["--flagfile"], "--flagfile= is no ordinary file"),
    (["--flagfile=/dev/zero"], "--flagfile=/dev/zero is no ordinary file"),
    (["--flagfile=pipe"], "--flagfile=pipe is no ordinary file"),
    (["--flagfile=binary"], "--flagfile=binary is no text (UTF-8)"),
    (["--flagfile=zero"], "it holds a zero byte"),
    (["--flagfile=large"], "is larger than 1048576 bytes"),
    (["--flagfile=word"], "'mnist' in line 2 of word is no --flag=value"),
    (["--flagfile=loop"], "--flagfile=loop in line 1 of loop reads itself"),
    (["--flagfile=inner"], "--preset=x in line 3 of inner is unknown"),
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for name, content in {
        "binary": b"\xff\xfe",
        "zero": b"--workdir=a\0b",
        "large": b"#" * (2**20 + 1),
        "word": b"--seed=1\nmnist\n",
        "loop": b"--flagfile=loop\n",
        "inner": b"# text\n\n--preset=x\n",
        "unknown": b"--seed=1\n\n--num_round=3\n",
        "value": b"--seed=one\n",
    }.items():
        pathlib.Path(name).write_bytes(content)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("args", "sentence"), BAD, ids=lambda bad: str(bad)[:40])
def test_files_that_hold_no_flags_are_refused(args, sentence):
    with pytest.raises(InputError) as caught:
        words(*args)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode()))
def test_any_bytes_in_a_flag_file_give_words_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.flags"
    path.write_bytes(content)
    try:
        found = words(f"--flagfile={path}")
    except InputError:
        return
    assert all(word.text.startswith("-") and word.place for word in found)


def explained(*args):
    """The sentence for a command line that absl refuses."""
    values = flags.FlagValues()
    for name in ("seed", "l2", "num_rounds", "local_floor", "hparam", "hidden"):
        values[name] = flags.FLAGS[name]
    found = command_line.expand(args, values)
    own = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(config)]
    try:
        # The flags are those of all programs, and keep their values.
        with flagsaver.flagsaver():
            values(["program", *(word.text for word in found)])
    except (flags.Error, ValueError) as error:
        return command_line.explain(error, found, flags.FLAGS, own)
    raise AssertionError("absl took it")


WRONG = [
    (["--num_round=3"], "unknown flag --num_round; did you mean --num_rounds?"),
    (["--num-rounds=3"], "unknown flag --num-rounds; did you mean --num_rounds?"),
    (["--nokeep_persona"], "did you mean --nokeep_personal?"),
    (["--rounds=3"], "did you mean --num_rounds"),
    (["--device_lr=1"], "did you mean --hparam=device_lr=VALUE?"),
    (["--device-lr=1"], "did you mean --hparam=device_lr=VALUE?"),
    (["--qqqqq"], "unknown flag --qqqqq. (--help lists all)"),
    (["--flagfile=unknown"], "unknown flag --num_round in line 3 of unknown; did"),
    (["--flagfile=value"], "--seed=one in line 1 of value must be an integer."),
    (["--seed=1.5"], "--seed=1.5 must be an integer."),
    (["--seed", "x: y"], "--seed=x: y must be an integer."),
    (["--seed="], "--seed= must be an integer."),
    (["--l2=big"], "--l2=big must be a number."),
    (["--local_floor=maybe"], "--local_floor=maybe must be true or false."),
    (["--nolocal_floor=1"], "--nolocal_floor=1 does not take an argument."),
    (["--seed"], "there is no value for --seed."),
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("args", "sentence"), WRONG, ids=lambda bad: str(bad)[:40])
def test_wrong_flags_get_one_sentence_and_a_suggestion(args, sentence):
    said = explained(*args)
    assert sentence in said
    assert "\n" not in said


@given(
    st.lists(
        st.sampled_from(["--", "-", "--seed", "--hidden", "--nolocal_floor", "=", "1"])
        | st.builds(
            "--{}={}".format,
            st.sampled_from(["seed", "l2", "local_floor", "hparam", "hidden", "sed"]),
            st.text(),
        )
        | st.text()
    )
)
def test_any_words_are_taken_or_get_one_sentence(args):
    args = [text for text in args if "file" not in text]
    try:
        said = explained(*args)
    except AssertionError as taken:
        said = str(taken)
    assert said.endswith((".", "lists all)", "took it"))


ENDS = [
    (InputError("--seed=x is bad."), 1, "p: --seed=x is bad."),
    (DivergenceError("Round 3 diverged"), 1, "p: Round 3 diverged"),
    (KeyboardInterrupt(), 130, "p: interrupted; all is kept."),
    (BrokenPipeError(), 141, ""),
    (MemoryError(), 71, "p: out of memory; a smaller --device_chunk"),
    (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 71, "p: out of memory; "),
    (OSError(28, "No space left on device", "/a"), 71, "p: the machine refused ("),
    (FileNotFoundError(2, "gone"), 70, "p: this is a bug in permfl_jax, please"),
    (KeyError("x\ny"), 70, r"report it: KeyError: 'x\ny' (--verbosity=1 shows"),
    (AssertionError(), 70, "report it: AssertionError (--verbosity=1"),
]


@pytest.mark.parametrize(
    ("error", "status", "sentence"), ENDS, ids=lambda value: type(value).__name__
)
def test_every_failure_ends_in_one_sentence(error, status, sentence, capsys):
    with (
        pytest.raises(SystemExit) as ended,
        program.ended_in_one_sentence("p", "all is kept"),
    ):
        raise error
    said = capsys.readouterr().err
    assert ended.value.code == status
    assert sentence in said
    assert len(said.splitlines()) == bool(sentence)


def test_what_a_program_exits_with_is_kept():
    with pytest.raises(SystemExit) as ended, program.ended_in_one_sentence("p"):
        sys.exit(143)
    assert ended.value.code == 143


@given(st.text())
def test_a_sentence_is_one_line_that_a_terminal_can_show(text):
    line = program.one_line(text * 100)
    assert line.isprintable()
    assert len(line) <= 2002 or "\\" in line
    kept = program.one_line("α – 'x'   y\n z")
    assert kept == "α – 'x' y z"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "small.py"
    path.write_text(SMALL)

    # What is printed reaches a pipe late, as it does for users.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}

    def run(*args, stdout=subprocess.PIPE):
        return subprocess.run(
            [sys.executable, path, *args],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )

    return run


def test_a_program_reads_flags_and_prints_help(small):
    done = small("--preset=quickstart", "--seed=7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "seed 7\n", "")
    done = small("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("A small program.\n\n    python -m experiments.small")
    assert "Devices and teams:\n" in done.stdout
    assert "Other:\n  --end=well               How.\n" in done.stdout


def test_a_program_tells_wrong_flags_and_bugs(small):
    done = small("--num_rouns=3")
    assert done.returncode == 1
    assert done.stderr == (
        "experiments.small: unknown flag --num_rouns; did you mean --num_rounds? "
        "(--help lists all)\n"
    )
    done = small("--end=bug")
    assert (done.returncode, done.stdout) == (70, "seed 0\n")
    assert len(done.stderr.splitlines()) == 1
    done = small("--end=bug", "--verbosity=1")
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("experiments.small: this is a bug")


def test_a_program_that_cannot_print_says_so_once(small):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        done = small(stdout=full)
    assert done.returncode == 71
    assert len(done.stderr.splitlines()) == 1
    reading, writing = os.pipe()
    os.close(reading)
    done = small(stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
