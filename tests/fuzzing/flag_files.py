"""Files of flags: missing, binary, huge, reading each other and themselves."""

import contextlib
import os
import pathlib
import random
from typing import Any

from absl.testing import flagsaver

from fuzzing import settings

PRINTED = True
_NAMES = ("a.flags", "b.flags", "c.flags", "deep/d.flags", "é .flags")
_LINES = (
    *(
        "--seed=1",
        "--num_rounds=2",
        "  --l2=0.5  ",
        "# a remark",
        "// another",
        "",
        "-",
    ),
    *("--", "---", "--=", "--nothing=1", "seed=1", "--seed=x", "--seed", "--flagfile"),
    *("--flagfile=", "--flagfile=.", "--flagfile=/dev/zero", "--flagfile=missing"),
    *("--preset=quickstart", "--preset=", "--preset=../presets/quickstart", "--help"),
    *("--preset=nothing", "--hparam=device_lr=0.1", "--seed='1'", '--seed="1"', "\\"),
    *(
        "--flagfile=~",
        "--flagfile=~nobody/x",
        "--workdir=\0",
        "--seed=1 --l2=2",
        "\x0c",
    ),
    *("--undefok=nothing,more", "--undefok=seed", "--hidden=" + "9," * 9000 + "9"),
    *("--helpfull", "--only_check_args", "--verbosity=1", "--verbosity=x", "-v=9999"),
    *("--pdb", "--pdb_post_mortem", "--run_with_profiling", "--profile_file=executed"),
)
_SPECIAL = ("fifo", "folder", "/dev/zero", "/dev/null", "/etc/shadow", "self", "gone")


def prepare(folder: pathlib.Path) -> Any:
    """Nothing that a case needs."""
    return settings.prepare(folder)


def draw(rng: random.Random, world: Any) -> list[Any]:
    """Files, then the words of the command line."""
    steps = []
    for name in rng.sample(_NAMES, rng.choice((1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.6:
            lines = [_line(rng, world) for _ in range(rng.choice((1, 2, 5, 20)))]
            steps.append(["text", name, "\n".join(lines)])
        elif kind < 0.7:
            steps.append(["bytes", name, rng.randbytes(rng.choice((1, 9, 3000))).hex()])
        elif kind < 0.8:
            line = rng.choice(
                ("--seed=1", "x", f"--flagfile={rng.choice(_NAMES)}", "-")
            )
            steps.append(["many", name, [line, rng.choice((40, 3000, 200_000))]])
        elif kind < 0.85:
            steps.append(["chain", name, rng.choice((5, 60, 3000))])
        elif kind < 0.9:
            steps.append(["tree", name, rng.choice((4, 12, 40))])
        else:
            steps.append(["special", name, rng.choice(_SPECIAL)])
    name = rng.choice((steps[0][1],) * 9 + ("missing", "", "\0", "a" * 5000))
    words = rng.choice(
        ([f"--flagfile={name}"],) * 6
        + (["--flagfile", name], ["--flagfile"], [f"-flagfile={name}"])
        + ([f"--flagfile={name}"] * 3, ["--", f"--flagfile={name}"])
    )
    if rng.random() < 0.2:
        words = [*words, *settings.draw(rng, world)[1:]]
    return [*steps, ["words", "", words]]


def _line(rng, world):
    kind = rng.random()
    if kind < 0.3:
        return settings.draw(rng, world)[1]
    if kind < 0.5:
        return f"--flagfile={rng.choice(_NAMES)}"
    return rng.choice(_LINES)


def perform(steps: list[Any], world: Any, folder: pathlib.Path) -> str | None:
    """Writes the files and reads them as the programs do."""
    del world
    words: list[str] = []
    (folder / "deep").mkdir()
    for kind, name, content in steps:
        if kind == "words":
            words = content
        else:
            _write(folder, folder / name, kind, content)
    before = sorted(path.name for path in folder.iterdir())
    with contextlib.chdir(folder), flagsaver.flagsaver():
        settings.parsed("train", words)
    after = sorted(path.name for path in folder.iterdir())
    return None if before == after else f"left {after}"


def _write(folder, path, kind, content):
    if kind == "text":
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    elif kind == "bytes":
        path.write_bytes(bytes.fromhex(content))
    elif kind == "many":
        path.write_text("\n".join([content[0]] * content[1]))
    elif kind == "chain":  # each reads the next
        for number in range(content):
            last = number == content - 1
            line = "--seed=1" if last else f"--flagfile=link{number + 1}"
            (folder / f"link{number}").write_text(line)
        path.write_text("--flagfile=link0")
    elif kind == "tree":  # each reads the next twice: 2^n words
        for number in range(content):
            last = number == content - 1
            line = "--seed=1" if last else f"--flagfile=twig{number + 1}"
            (folder / f"twig{number}").write_text(f"{line}\n{line}")
        path.write_text("--flagfile=twig0")
    elif content == "fifo":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    elif content != "gone":
        path.symlink_to(path.name if content == "self" else content)
