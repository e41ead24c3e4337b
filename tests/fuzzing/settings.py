"""Flags, as a command line gives them: wrong names, wrong types, extreme values."""

import contextlib
import importlib
import json
import random
import re
from typing import Any

from absl import flags
from absl.testing import flagsaver

from experiments import program as programs

# Small and quick; what a case adds comes after, and wins.
_BASE = ("--num_teams=2", "--devices_per_team=2", "--num_rounds=2", "--workdir=run")
_NUMBERS = (
    *("0", "1", "2", "3", "-1", "7", "10", "64", "99", "1000", "100000", "10000000"),
    *("10000001", "2147483647", "2147483648", "4294967296", "9223372036854775808"),
    *("-9223372036854775809", "1e400", "1" * 400, "1" * 5000, "0x10", "1_000", "٣"),
    *("0.0", "0.1", "0.5", "0.999999", "1.0", "1e-300", "1e-45", "1e30", "1e31"),
    *("nan", "inf", "-inf", "-0.0", "1e308", "+5", " 5", "5 ", "1,2", "1.5"),
)
_TEXTS = (
    *("", " ", ",", ",,,", "=", "==", "x", "none", "None", "null", "true", "[]", "{}"),
    *("é", "𝔘", "\u202e", "\udcff", "\0", "a\0b", "\n", "a\nb", "\r", "\x1b[31m", "'"),
    *('"', "\\", "%s%n", "{}", "{seed}", "{dataset.__class__}", "$(touch executed)"),
    *("__import__('os').system('touch executed')", "../../x", "/", "~", "~nobody/x"),
    *(
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "a" * 300,
        "a/" * 3000,
        "x" * 100_000,
    ),
)
_COUNTS = (",".join(["1"] * n) for n in (3, 100, 20_000))
_LISTS = (
    *("2,3", "1,1", "2,", ",2", "2,,2", "2,x", "0,2", "-1,5", "10000000,1"),
    *("10000000", "5000000,5000000", "9" * 30, "2," * 40_000 + "2", *_COUNTS),
)
_GRIDS = (
    *("device_lr=0.1,0.2", "device_lr=", "device_lr", "=0.1", "device_lr=nan"),
    *("device_lr=0.1,0.1", "nothing=1", "__class__=1", "device_lr=1e400"),
    "device_lr=" + ",".join(f"0.{n}" for n in range(1, 40_000)),
    "team_lr=" + ",".join(f"0.0{n}" for n in range(1, 3_000)),
    "device_prox=" + ",".join(f"0.5{n}" for n in range(1, 3_000)),
)
_COLUMNS = (
    *("a: --num_rounds=1", "a", ":", "a:", "../a: --seed=1", "a: --seed", "a: x"),
    *("a: --workdir=x", "a: --algorithm=ditto", "a: '", "a: --flagfile=x", ".: "),
    *("a: --column=b:", "é: --seed=2", "a" * 500 + ": --seed=1", "a: --help"),
    *("a: --undefok=x --nothing", "a: --hparam=permfl.device_lr=0.1", "-: "),
)
PRINTED = True
# Settings that are large together.
_TOGETHER = (
    ("--dataset=synthetic", "--devices_per_team=5000000"),
    ("--dataset=synthetic", "--devices_per_team=30000"),
    ("--dataset=synthetic", "--num_teams=10000000", "--devices_per_team=1"),
    ("--num_teams=10000000", "--devices_per_team=1"),
    ("--num_teams=1000000", "--devices_per_team=1", "--partition=dirichlet"),
    ("--num_teams=1000000", "--devices_per_team=1", "--partition=quantity"),
    ("--num_teams=1000000", "--devices_per_team=1", "--partition=classes"),
    ("--devices_per_team=1000000", "--partition=two_level_dirichlet"),
    ("--devices_per_team=1000000", "--team_formation=worst_case"),
    ("--model=dnn", "--hidden=100000,100000"),
    ("--model=dnn", "--hidden=100000", "--devices_per_team=400"),
    ("--batch_size=10000000",),
    ("--batch_size=10000000", "--device_steps=10000000", "--num_rounds=1"),
    ("--min_samples=10000000", "--partition=quantity"),
    ("--min_samples=9223372036854775808", "--partition=dirichlet"),
    tuple(f"--grid={text}" for text in _GRIDS[-3:]),
    ("--seeds=" + ",".join(map(str, range(100_000))),),
    ("--seeds=" + ",".join(map(str, range(3_000))), f"--grid={_GRIDS[-1]}"),
    ("--tuning_seeds=" + ",".join(map(str, range(100_000))),),
    ("--methods=" + "permfl," * 30_000,),
    tuple(f"--column=c{n}: --seed={n}" for n in range(300)),
)
_PROGRAMS = ("train", "train", "train", "sweep", "compare")


def prepare(folder):
    """Names of all flags of the three programs, and values that they allow."""
    from experiments import compare, config, sweep, train

    known = set()
    for module in (train, sweep, compare, config):
        known |= {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)}
    words = {}
    for name in known:
        text = flags.FLAGS[name].help or ""
        words[name] = sorted(set(re.findall(r"[a-z][a-z0-9_]{2,}", text)))[:60]
    # Datasets that need no raw files are asked for most.
    words["dataset"] = ["digits", "synthetic"] * 8 + words["dataset"]
    del folder
    return {"names": sorted(known - {"distributed"}), "words": words}


def draw(rng: random.Random, world: dict[str, Any]) -> list[Any]:
    """The program, then its arguments."""
    given = list(rng.choice(_TOGETHER)) if rng.random() < 0.1 else []
    for _ in range(rng.choices((1, 2, 3, 6), (5, 4, 3, 1))[0]):
        name = rng.choice(world["names"])
        given.append(_argument(rng, name, world["words"][name]))
    return [rng.choice(_PROGRAMS), *given]


def _argument(rng, name, words):
    value = rng.choice(_NUMBERS)
    kind = rng.random()
    flag = flags.FLAGS[name]
    if name == "grid":
        value = rng.choice(_GRIDS)
    elif name == "column":
        value = rng.choice(_COLUMNS)
    elif name == "hparam":
        value = f"{rng.choice(_HPARAMS)}={value}" if kind < 0.8 else rng.choice(_TEXTS)
    elif flag.flag_type().startswith("comma") and kind < 0.7:
        value = rng.choice(_LISTS)
    elif flag.flag_type() in ("string", "multi string") and kind < 0.7 and words:
        value = rng.choice(words)
    elif kind > 0.8:
        value = rng.choice(_TEXTS)
    if flag.boolean and kind < 0.8:
        return rng.choice(
            (f"--{name}", f"--no{name}", f"--{name}=false", f"--{name}=1")
        )
    if kind > 0.97:
        name = rng.choice((name[:-1], name + "s", name.upper(), "", "=", name[::-1]))
    return rng.choice(
        (f"--{name}={value}",) * 12 + (f"-{name}={value}", f"--{name}", value)
    )


_HPARAMS = (
    *("device_lr", "team_lr", "server_lr", "device_prox", "team_prox", "device_pull"),
    *("lr", "", "__class__", "é", "device_lr ", "DEVICE_LR", "groups", "clusters"),
)


def perform(steps, world, folder):
    """Parses, checks and builds, as the program does before its first round."""
    del world
    program, *given = steps
    with contextlib.chdir(folder), flagsaver.flagsaver():
        asked(program, [*_BASE, *given])
    left = sorted(path.name for path in folder.iterdir())
    return f"left {left[:5]}" if left else None


def asked(program: str, given: list[str]) -> None:
    """Everything that `program` does with its flags before it writes or trains.

    Args:
      program: `train`, `sweep` or `compare`.
      given: its arguments.
    """
    parsed(program, given)
    globals()[f"_{program}"](flags.FLAGS)


def parsed(program: str, given: list[str]) -> None:
    """As the programs parse: with presets, flag files and their sentences."""
    module = importlib.import_module(f"experiments.{program}")
    try:
        programs.no_arguments(programs._parse([program, *given], module))
    except SystemExit as end:
        if end.code != 0:  # 0 after help
            raise


def _train(values):
    import jax

    from experiments import config, costs, experiment, job, machine, session, writers

    settings = config.from_flags(values)
    machine.set_precision(settings.precision)
    writers.check_installed()
    session.Session(settings, None)
    json.dumps(vars(settings))
    built = experiment.spread(experiment.build(settings))
    # What the first round takes and gives, without computing it.
    begun = jax.eval_shape(lambda: job.start(built))
    costs.cost(built, built.hparams, 1)
    del begun


def _sweep(values):
    from experiments import config, experiment, members
    from permfl_jax import algorithms

    settings = config.from_flags(values)
    seeds = [str(settings.seed)] if values.seeds is None else values.seeds
    method = algorithms.get(settings.algorithm).hparams
    who = members.members(method, settings.hparam, seeds, values.grid)
    who.describe()
    experiment.build(settings)


def _compare(values):
    from experiments import compare
    from experiments.contests import comparison

    comparison.check(compare.from_flags(values))
