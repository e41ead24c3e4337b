"""What every program shares: flags, help, and an end in one sentence.

| exit status | what |
|---|---|
| 1 | the user's mistake, or divergence |
| 70 | a bug in permfl_jax |
| 71 | the machine refused: memory, disk, permissions |
| 130 | interrupted from the keyboard |
| 141 | nobody reads what is printed |

`--verbosity=1` prints the traceback above the sentence, 2 also all that JAX logs.
"""

import contextlib
import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags

from permfl_jax.errors import DivergenceError, InputError

from . import command_line, help_page

_MISTAKE, _BUG, _MACHINE, _INTERRUPTED, _UNREAD = 1, 70, 71, 130, 141
_LONGEST = 2000  # characters of a sentence; files can put anything into one
# What the operating system refuses, whatever the program does.
_REFUSED = {
    getattr(errno, name, None)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "EPERM", "EMFILE")
}


def run(
    main: Callable[[Sequence[str]], None],
    name: str,
    *,
    interrupted: str = "",
    leave: Callable[[int], NoReturn] = sys.exit,
) -> NoReturn:
    """Runs a program and ends the process.

    Args:
      main: takes the program's name and its arguments that are no flags.
      name: stands before every sentence, for instance `experiments.train`.
      interrupted: what an interruption from the keyboard leaves behind.
      leave: ends the program with a status after a failure.
    """
    module = sys.modules[main.__module__]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack α and –
            stream.reconfigure(errors="backslashreplace")

    def parse(argv: Sequence[str]) -> list[str]:
        return _parse(argv, module)

    with ended_in_one_sentence(name, interrupted, leave):
        app.run(main, flags_parser=parse)
    raise AssertionError("app.run ends the process")


@contextlib.contextmanager
def ended_in_one_sentence(
    name: str, interrupted: str = "", leave: Callable[[int], NoReturn] = sys.exit
) -> Iterator[None]:
    """Within it, every failure becomes one sentence and an exit status.

    Args:
      name: of the program.
      interrupted: what an interruption from the keyboard leaves behind.
      leave: ends the program with a status.

    Raises:
      SystemExit: the program failed.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a failure can still be told
    except SystemExit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        sentence, status = _verdict(error, interrupted)
        with contextlib.suppress(OSError):
            if (flags.FLAGS["verbosity"].value or 0) >= 1:
                traceback.print_exception(error)
            if sentence:
                print(f"{name}: {one_line(sentence)}", file=sys.stderr, flush=True)
        _drop_unwritten()
        leave(status)


def _verdict(error, interrupted):
    """The sentence and the exit status."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, InputError | DivergenceError):
        return str(error), _MISTAKE
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{'; ' * bool(interrupted)}{interrupted}.", _INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "", _UNREAD
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            "out of memory; a smaller --device_chunk computes fewer devices at once, "
            f"--nokeep_personal stores no device's model ({reason})",
            _MACHINE,
        )
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return f"the machine refused ({error}).", _MACHINE
    return (
        f"this is a bug in permfl_jax, please report it: {reason} "
        "(--verbosity=1 shows the traceback)",
        _BUG,
    )


def one_line(text: str) -> str:
    """The text as one line of at most 2,000 characters that a terminal can show."""
    text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + " …"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _drop_unwritten():
    """What stdout could not write, Python would try again, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv, module):
    """absl's parser, with presets, our help and our sentences."""
    values = flags.FLAGS
    values.set_gnu_getopt()  # flags may come after other arguments
    if command_line.asks_for_help(argv[1:]):
        print(help_page.page(module, values, argv[1:]))
        sys.exit(0)
    words = command_line.expand(argv[1:], values)
    try:
        rest = values([argv[0], *(word.text for word in words)])
    except (flags.Error, ValueError) as error:
        own = [flag.name for flag in values.get_key_flags_for_module(module)]
        sentence = command_line.explain(error, words, values, own)
        raise InputError(sentence) from error
    if values["verbosity"].using_default_value:
        values.verbosity = -1  # warnings; absl would put 0 for what nobody set
    elif values.verbosity == 1:
        logging.getLogger().setLevel(logging.WARNING)  # or JAX writes 1,500 lines
    return rest


def no_arguments(argv: Sequence[str]) -> None:
    """Refuses arguments that are no flags.

    Args:
      argv: as `main` gets it.

    Raises:
      InputError: there are some.
    """
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; flags start with --.")
