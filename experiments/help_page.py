"""What `--help` prints: a program's own flags by group, with their defaults."""

import dataclasses
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from absl import flags

from permfl_jax import algorithms

# In the order in which they are shown; a test wants every flag of every program here.
GROUPS: dict[str, tuple[str, ...]] = {
    "Data": (
        *("dataset", "data_dir", "manual_dir", "validation_fraction", "test_fraction"),
        *("synthetic_alpha", "synthetic_beta", "text_features"),
        "class_imbalance",
    ),
    "Devices and teams": (
        *("num_teams", "devices_per_team", "partition", "team_formation"),
        *("formation_lr", "formation_rounds"),
        *("classes_per_device", "dirichlet_alpha", "team_alpha", "device_alpha"),
        *("quantity_sigma", "min_samples", "teams_per_round", "devices_per_round"),
    ),
    "Model": ("model", "hidden", "l2"),
    "Method": (
        *("algorithm", "hparam", "team_steps", "device_steps", "batch_size"),
        *("batching", "weights", "aggregate", "local_floor"),
    ),
    "Uploads": (
        *("device_upload", "team_upload", "device_loss", "team_loss", "upload_memory"),
    ),
    "Many runs": (
        *("protocol", "methods", "column", "grid_lr", "tuning_rounds"),
        *("tuning_seeds", "grid", "seeds", "compare"),
        *("problem", "sweep", "study", "quick"),
    ),
    "Benchmark": ("workloads", "peer", "peers", "pairs", "scale_devices"),
    "Run": (
        *("preset", "num_rounds", "seed", "eval_every", "checkpoint_every", "keep"),
        *("checks",),
    ),
    "Machine": (
        *("chips", "device_chunk", "keep_personal", "precision", "rounds_per_call"),
        *("distributed",),
    ),
    "Output": ("workdir", "json", "output", "png_dir", "tensorboard", "wandb"),
    "Models of a run": (
        "model_of",
        "input",
        "predictions",
        "personalise",
        "from",
        "personal_steps",
        "new_team",
        "save_model",
        "export",
    ),
}
_REST = "Other"
_OF_ABSL = "; repeat this option to specify a list of values"  # we say: repeatable
_NARROWEST, _WIDEST, _COLUMN = 40, 100, 27
_PLACEHOLDERS = {"int": "N", "float": "X", "string": "TEXT", "bool": ""}
_LAST = (
    "--flagfile=FILE reads flags from a file, one a line; a later flag replaces an "
    "earlier one. --verbosity=1 shows the traceback of an error. --helpfull adds the "
    "flags of absl and other libraries."
)


def page(program: ModuleType, values: flags.FlagValues, args: Sequence[str]) -> str:
    """The whole text, as wide as the terminal.

    Args:
      program: the module whose flags and docstring are shown.
      values: where its flags are.
      args: the command line, which may name an algorithm.
    """
    width = shutil.get_terminal_size((80, 24)).columns
    width = min(max(width, _NARROWEST), _WIDEST)
    parts = [_about(program, width)]
    own = {flag.name: flag for flag in values.get_key_flags_for_module(program)}
    for group, members in grouped(list(own)).items():
        shown = [(_setting(own[name]), _help(own[name])) for name in members]
        entries = [_entry(left, right, width) for left, right in shown]
        parts.append("\n".join([f"{group}:", *entries]))
        if "hparam" in members:
            parts += _hyper_parameters(own, args, width)
    parts.append(textwrap.fill(_LAST, width))
    return "\n\n".join(parts)


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """The names by group, in the order of the groups; those of none come last."""
    found = {
        group: [name for name in members if name in names]
        for group, members in GROUPS.items()
    }
    placed = {name for members in found.values() for name in members}
    found[_REST] = sorted(set(names) - placed)
    return {group: members for group, members in found.items() if members}


def _about(program, width):
    """The module's docstring, its commands as this program was started."""
    text = inspect.cleandoc(program.__doc__ or "")
    started = os.path.basename(sys.argv[0])
    if started.startswith("permfl-"):
        text = re.sub(r"python -m experiments\.\w+", started, text)
    elif (program.__package__ or "").startswith("permfl_jax"):
        text = text.replace("python -m experiments", "python -m permfl_jax.experiments")
    blocks = []
    for block in text.split("\n\n"):
        command = block.startswith((" ", "python", "permfl-"))
        blocks.append(block if command else textwrap.fill(block, width))
    return "\n\n".join(blocks)


def _entry(left, right, width):
    """One flag: what is typed, and from `_COLUMN` on what it means."""
    column = _COLUMN if width > 2 * _COLUMN else 6
    lines = textwrap.wrap(right, width - column) or [""]
    if len(left) + 3 > column:
        lines = ["", *lines]
    first, *others = lines
    padded = f"  {left}".ljust(column) + first
    return "\n".join([padded.rstrip(), *(" " * column + line for line in others)])


def _setting(flag):
    """The flag with its default, or with what it takes."""
    if flag.boolean:
        return f"--[no]{flag.name}"
    default = flag.default
    if isinstance(default, list):
        default = ",".join(default)
    if default in (None, ""):
        several = isinstance(flag.parser, flags.ListParser)
        default = "A,B" if several else _PLACEHOLDERS.get(flag.flag_type(), "TEXT")
    return f"--{flag.name}={default}"


def _help(flag):
    text = " ".join((flag.help or "").split()).removesuffix(_OF_ABSL)
    if flag.boolean:
        text += f" Default: {'on' if flag.default else 'off'}."
    return text


def _hyper_parameters(own, args, width):
    """Those of the chosen method explained, those of the others by name."""
    chosen = None
    if "algorithm" in own and "methods" not in own:
        named = re.findall(r"-algorithm[= ](\S+)", " ".join(args))
        known = [name for name in named if name in algorithms.ALGORITHMS]
        chosen = known[-1] if known else own["algorithm"].default
    parts = []
    if chosen:
        meaning = _meanings(algorithms.ALGORITHMS[chosen].hparams)
        lines = [
            _entry(setting, meaning.get(name, ""), width)
            for name, setting in _defaults(algorithms.ALGORITHMS[chosen].hparams)
        ]
        title = f"--hparam of --algorithm={chosen}, with defaults:"
        parts.append("\n".join([*textwrap.wrap(title, width), *lines]))
    lines = [
        _entry(name, "  ".join(text for _, text in _defaults(method.hparams)), width)
        for name, method in algorithms.ALGORITHMS.items()
        if name != chosen
    ]
    title = "--hparam of the other algorithms (--algorithm=NAME --help explains them):"
    if chosen is None:
        title = "--hparam of the methods, as METHOD.name=value:"
    return [*parts, "\n".join([*textwrap.wrap(title, width), *lines])]


def _defaults(hparams: type[Any]) -> list[tuple[str, str]]:
    """Name, and name=default, of each hyper-parameter."""
    found = []
    for field in dataclasses.fields(hparams):
        known = isinstance(field.default, float | int)
        setting = f"{field.name}={field.default:g}" if known else f"{field.name}=X"
        found.append((field.name, setting))
    return found


def _meanings(hparams: type[Any]) -> dict[str, str]:
    """What the docstring says of each."""
    section = inspect.cleandoc(hparams.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^  (\w+): (.*?)(?=^  \w+:|\n\n|\Z)", section, re.M | re.S)
    return {name: " ".join(text.split()) for name, text in entries}
