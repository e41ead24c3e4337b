"""What a case is, and when it has failed.

A case is a list of steps that are plain JSON: what is given to a program, or what is
done to a good file. A surface draws the steps and carries them out; whether it ended
well is decided here, the same for all.
"""

import pathlib
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import program
from permfl_jax.errors import DivergenceError, InputError

LONGEST = 2000  # characters of a sentence
CANARY = "executed"  # a file that appears if something in a case is executed
_CUT = " …"  # what the programs put for the rest of a long one
Steps = list[Any]


class Surface(NamedTuple):
    """A kind of input.

    Attributes:
      prepare: makes what all cases need in a folder, once in a process; returns it.
      draw: the steps of a case, from its random numbers and what was prepared.
      perform: carries them out in an empty folder; returns nothing if all is well, else
        what is wrong with the outcome; may raise.
      gigabytes: address space that a process may take above what it has when prepared.
      printed: sentences are judged as the programs print them, cut and on one line, as
        they repeat what was typed.
    """

    prepare: Callable[[pathlib.Path], Any]
    draw: Callable[[random.Random, Any], Steps]
    perform: Callable[[Steps, Any, pathlib.Path], str | None]
    gigabytes: float = 2.0
    printed: bool = False


def chance(surface: str, seed: int, number: int) -> random.Random:
    """The random numbers of one case, which are nobody else's."""
    return random.Random(f"{seed}/{surface}/{number}")


def judge(surface: Surface, steps: Steps, world: Any, where: pathlib.Path) -> str:
    """`passed`, `refused`, or why the case failed; its last line tells failures apart.

    Args:
      surface: of the case.
      steps: of the case.
      world: what was prepared.
      where: an existing folder for temporary ones.
    """
    folder = pathlib.Path(tempfile.mkdtemp(dir=where))
    try:
        wrong = surface.perform(steps, world, folder)
        verdict = "passed" if wrong is None else f"FAILED\n{wrong}"
    except (InputError, DivergenceError) as error:
        text = program.one_line(str(error)) if surface.printed else str(error)
        wrong = sentence_fault(text)
        verdict = "refused" if wrong is None else f"FAILED\n{wrong}"
    except SystemExit as error:
        verdict = f"FAILED\nended the process with {error.code!r:.200}"
    except BaseException as error:
        lines = traceback.format_exc().splitlines()
        verdict = "\n".join(["FAILED", *lines[-30:], _place(error)])
    finally:
        _remove(folder)
    if (where / CANARY).exists():
        (where / CANARY).unlink()
        return "FAILED\nsomething that was read was executed"
    return verdict


def sentence_fault(text: str) -> str | None:
    """Why a text is not one clear sentence, or `None`."""
    if "\n" in text or "\r" in text:
        return f"{text!r:.300}\nthe sentence has several lines"
    if len(text) > LONGEST + len(_CUT):
        return f"{text!r:.300}\nthe sentence has {len(text)} characters"
    if not text.endswith((".", ")", _CUT)):
        return f"{text[-300:]!r}\nthe sentence does not end"
    return None


def _place(error):
    """Kind of error and where in the project it arose: the same for the same bug."""
    ours = [
        f"{pathlib.Path(frame.filename).name}:{frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/permfl_jax/" in frame.filename or "/experiments/" in frame.filename
    ]
    return f"{type(error).__name__} in {ours[-1] if ours else 'the test'}"


def _remove(folder):
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def smaller(steps: Steps, fails: Callable[[Steps], bool], tries: int = 60) -> Steps:
    """As few of the steps as still fail, one taken away at a time.

    Args:
      steps: that fail.
      fails: whether others fail alike.
      tries: at most so many.
    """
    place = 0
    while place < len(steps) and tries > 0:
        fewer = steps[:place] + steps[place + 1 :]
        tries -= 1
        if fewer and fails(fewer):
            steps = fewer
        else:
            place += 1
    return steps
