"""A command line: presets and flag files spelled out, wrong flags explained."""

import dataclasses
import difflib
import itertools
import os
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from absl import flags

from permfl_jax import algorithms
from permfl_jax.errors import InputError

PRESETS = pathlib.Path(__file__).parent / "presets"
_MOST_BYTES = 2**20  # of a file of flags
_MOST_FILES = 100  # read for one command line; files can ask for each other
_MOST_WORDS = 100_000
_MOST_NAMES = 3  # that are suggested for a wrong one
_ALIKE = 0.6  # of `difflib`, below which names have nothing in common
_AS_ALIKE = 0.05  # how much less alike than the nearest name is still suggested
_HELP = ("-h", "-?", "-help", "--help", "-helpshort", "--helpshort")


class Word(NamedTuple):
    """One word of a command line.

    Attributes:
      text: as it is parsed.
      place: " in line 3 of FILE", or nothing if it was typed.
    """

    text: str
    place: str = ""


def presets() -> list[str]:
    """Names that `--preset` takes."""
    return sorted(path.stem for path in PRESETS.glob("*.flags"))


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether `--help` is among the flags."""
    flags_alone = args[: args.index("--")] if "--" in args else args
    return any(text in _HELP for text in flags_alone)


def expand(args: Iterable[str], values: flags.FlagValues) -> list[Word]:
    """The words, with each `--preset` and `--flagfile` replaced by what it holds.

    absl reads flag files itself, but does not say where a mistake in them is, and knows
    no presets.

    Args:
      args: without the program's name.
      values: the program's flags.

    Raises:
      InputError: no such preset, a file that cannot be read, or holds no flags.
    """
    words: list[Word] = []
    rest, read = iter(args), itertools.count(1)
    for text in rest:
        name, equals, value = text.lstrip("-").partition("=")
        if text == "--" or not text.startswith("-"):
            words.append(Word(text))
            words += map(Word, rest if text == "--" else ())
        elif name == "flagfile" or (name == "preset" and "preset" in values):
            value = value if equals else next(rest, "")
            words += _of_file(name, value, Word(""), (), read)
        else:
            words.append(Word(text))
            if not equals and name in values and not values[name].boolean:
                words += map(Word, _next(rest))  # its value, whatever it looks like
    return words


def _next(rest: Iterator[str]) -> list[str]:
    return [text for text in (next(rest, None),) if text is not None]


def _of_file(name, value, asking, above, read):
    """Words of one preset or flag file.

    Args:
      name: `preset` or `flagfile`.
      value: what it was set to.
      asking: the word of a file that asked for this one.
      above: the files being read, the one that asks last.
      read: counts the files.
    """
    given = f"--{name}={value}{asking.place}"
    if next(read) > _MOST_FILES:
        raise InputError(f"{given} is one file of flags more than {_MOST_FILES}.")
    if name == "preset":
        if value not in presets():
            raise InputError(f"{given} is unknown; choose from {', '.join(presets())}.")
        path = PRESETS / f"{value}.flags"
    else:
        path = pathlib.Path(os.path.expanduser(value))
        if above and not path.exists():  # from another folder than its writer's
            path = above[-1].parent / path.name
    if path in above:
        raise InputError(f"{given} reads itself.")
    words: list[Word] = []
    for number, line in enumerate(_text(path, given).splitlines(), 1):
        word = Word(line.strip(), f" in line {number} of {path}")
        if not word.text or word.text.startswith(("#", "//")):
            continue
        inner, _, setting = word.text.lstrip("-").partition("=")
        if not word.text.startswith("-") or not inner:
            raise InputError(f"{word.text!r}{word.place} is no --flag=value.")
        if inner in ("flagfile", "preset"):
            words += _of_file(inner, setting, word, (*above, path), read)
        else:
            words.append(word)
        if len(words) > _MOST_WORDS:
            raise InputError(f"{given} holds more than {_MOST_WORDS} flags.")
    return words


def _text(path, given):
    """Of a file that may be anything."""
    try:
        # Reading a pipe or a device may never end.
        regular = stat.S_ISREG(path.stat().st_mode)
        with open(path if regular else os.devnull, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{given} is no text (UTF-8).") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{given} cannot be read ({error}).") from error
    if not regular:
        raise InputError(f"{given} is no ordinary file.")
    if len(content) > _MOST_BYTES:
        raise InputError(f"{given} is larger than {_MOST_BYTES} bytes.")
    if "\0" in text:
        raise InputError(f"{given} is no text: it holds a zero byte.")
    return text


def explain(
    error: Exception,
    words: Sequence[Word],
    values: flags.FlagValues,
    own: Sequence[str],
) -> str:
    """One sentence for an error of absl's parser.

    Args:
      error: what it raised.
      words: that it parsed.
      values: the program's flags.
      own: names of the flags that may be suggested.
    """
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        near = [f"--{other}" for other in nearest(name, values, own)]
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        return f"unknown flag --{name}{_place(name, words)}{hint} (--help lists all)"
    message = str(error).replace("Missing value for flag", "there is no value for")
    found = re.match(r"flag --(\w+)=", message)
    if isinstance(error, flags.IllegalFlagValueError) and found and found[1] in values:
        name, flag = found[1], values[found[1]]
        wanted = "true or false" if flag.boolean else flag.parser.syntactic_help
        value = _value(message.removeprefix(found[0]), words)
        if wanted and value is not None:
            return f"--{name}={value}{_place(name, words, value)} must be {wanted}."
    return message.rstrip(".") + "."


def _value(message, words):
    """The value at which the message "VALUE: reason" begins."""
    given = [word.text.partition("=")[2] or word.text for word in words] + [""]
    fits = [value for value in given if message.startswith(f"{value}: ")]
    return max(fits, key=len, default=None)


def _place(name, words, value=None):
    """Where the flag was set so."""
    for word in words:
        given, _, setting = word.text.lstrip("-").partition("=")
        if given == name and value in (None, setting):
            return word.place
    return ""


def nearest(name: str, values: flags.FlagValues, own: Sequence[str]) -> list[str]:
    """The flags most like a wrong name, nearest first; perhaps none.

    Args:
      name: the wrong one.
      values: the program's flags.
      own: names to choose from.
    """
    wrong = name.lower().replace("-", "_")
    if "hparam" in own and wrong in _hyper_parameters():
        return [f"hparam={wrong}=VALUE"]
    known = [*own, *(f"no{other}" for other in own if values[other].boolean)]
    known += ["flagfile", "verbosity"]

    def likeness(other):
        return difflib.SequenceMatcher(None, wrong, other).ratio()

    alike = difflib.get_close_matches(wrong, known, _MOST_NAMES, _ALIKE)
    if alike:
        best = likeness(alike[0])
        return [other for other in alike if likeness(other) >= best - _AS_ALIKE]
    return [other for other in known if len(wrong) > 2 and wrong in other][:_MOST_NAMES]


def _hyper_parameters():
    methods = algorithms.ALGORITHMS.values()
    return {f.name for each in methods for f in dataclasses.fields(each.hparams)}
