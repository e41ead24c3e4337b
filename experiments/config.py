"""The flags of a run, and the frozen record made of them."""

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

from absl import flags

from permfl_jax import algorithms, models
from permfl_jax.errors import InputError
from permfl_jax.hparams import LARGEST
from permfl_jax.schedule import AGGREGATES, BATCHINGS, MOST, WEIGHTS, check_count
from permfl_jax.uplink import Uplink

from . import command_line, data_flags, machine, upload_flags


def _names(registry: Iterable[str]) -> str:
    return ", ".join(registry)


flags.DEFINE_string(
    "preset",
    None,
    "Flags that come with the program, read in this place: "
    f"{_names(command_line.presets())}.",
)
flags.DEFINE_string("model", "mclr", f"One of: {_names(models.MODELS)}.")
flags.DEFINE_string("algorithm", "permfl", f"One of: {_names(algorithms.ALGORITHMS)}.")
flags.DEFINE_integer("num_teams", 4, "Teams M.")
flags.DEFINE_list(
    "devices_per_team", ["10"], "Devices in each team: one number, or M of them."
)
flags.DEFINE_integer("num_rounds", 100, "Global rounds T.")
flags.DEFINE_integer("team_steps", 10, "Team rounds K per global round.")
flags.DEFINE_integer("device_steps", 20, "Device steps L per team round.")
flags.DEFINE_integer("batch_size", 64, "Samples per device step; 0 for all.")
flags.DEFINE_string(
    "batching", "shuffle", f"{_names(BATCHINGS)}: new order in each pass, or as stored."
)
flags.DEFINE_string(
    "weights", "uniform", f"Of devices and teams in means: {_names(WEIGHTS)}."
)
flags.DEFINE_string(
    "aggregate",
    "participants",
    f"Teams that the server averages when not all take part: {_names(AGGREGATES)}.",
)
flags.DEFINE_multi_string(
    "hparam",
    [],
    "name=value, repeatable; a later one replaces an earlier one. Names and defaults "
    "are listed by --help.",
)
flags.DEFINE_integer("teams_per_round", None, "Teams m per global round. Default: all.")
flags.DEFINE_integer(
    "devices_per_round", None, "Devices n of each team per team round. Default: all."
)
flags.DEFINE_integer("eval_every", 1, "Global rounds between evaluations.")
flags.DEFINE_integer(
    "rounds_per_call", 1, "Global rounds per compiled call; does not change results."
)
flags.DEFINE_bool(
    "keep_personal",
    True,
    "Store every device's model. Without, PM is not stored but adapted from the team's "
    "model when it is evaluated (PM_adapted), and there is no local floor: for memory.",
)
flags.DEFINE_integer(
    "device_chunk",
    None,
    "Devices computed at once on each chip: the largest divisor of its devices up to "
    "this; bounds memory, changes results by rounding alone. Default: all on GPU and "
    "TPU, what fits the cache on CPU.",
)
flags.DEFINE_integer(
    "chips", None, "Chips, or CPU cores, to spread devices over. Default: all."
)
flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other processes of a pod or cluster first (BUILD.md); the first one "
    "writes the results.",
)
flags.DEFINE_integer("seed", 0, "Seed of everything random.")
flags.DEFINE_float("l2", 0.0, "Adds l2/2 |params|^2 to the loss of every sample.")
flags.DEFINE_list("hidden", [], "Widths of dnn's one or two hidden layers.")
flags.DEFINE_bool(
    "local_floor", True, "Also train every device alone with the same steps, as floor."
)
flags.DEFINE_string(
    "workdir",
    None,
    "Folder for results; {seed} stands for the seed. Default: "
    "runs/DATASET_MODEL_ALGORITHM_SEED.",
)
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(machine)
flags.adopt_module_key_flags(upload_flags)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Every flag of a run, after parsing.

    `team_sizes` is `--devices_per_team` spelled out; `batch_size` is `None` for all.
    """

    dataset: str
    model: str
    algorithm: str
    team_sizes: tuple[int, ...]
    partition: str | None
    team_formation: str | None
    formation_lr: float
    formation_rounds: int | None
    classes_per_device: int
    dirichlet_alpha: float
    team_alpha: float
    device_alpha: float
    quantity_sigma: float
    class_imbalance: float
    min_samples: int
    num_rounds: int
    team_steps: int
    device_steps: int
    batch_size: int | None
    batching: str
    weights: str
    aggregate: str
    hparam: tuple[str, ...]
    teams_per_round: int | None
    devices_per_round: int | None
    eval_every: int
    rounds_per_call: int
    keep_personal: bool
    device_chunk: int | None
    chips: int | None
    precision: str
    distributed: bool
    seed: int
    l2: float
    hidden: tuple[int, ...]
    validation_fraction: float
    test_fraction: float
    synthetic_alpha: float
    synthetic_beta: float
    text_features: int
    device_upload: str
    team_upload: str
    device_loss: float
    team_loss: float
    upload_memory: bool
    local_floor: bool
    workdir: str
    data_dir: str | None
    manual_dir: str | None

    @property
    def num_devices(self) -> int:
        """D."""
        return sum(self.team_sizes)

    @property
    def uplink(self) -> Uplink | None:
        """What codes and losses do to uploads.

        Raises:
          InputError: a flag of theirs is not understood.
        """
        return upload_flags.uplink_of(
            self.device_upload,
            self.team_upload,
            self.device_loss,
            self.team_loss,
            self.upload_memory,
        )


def from_flags(values: flags.FlagValues) -> Config:
    """The record of parsed flags.

    Raises:
      InputError: a count below 1, team sizes that do not match the number of teams.
    """
    given: dict[str, Any] = {name: values[name].value for name in _flag_names()}
    num_teams, sizes = given.pop("num_teams"), given.pop("devices_per_team")
    check_count("--num_teams", num_teams)
    sizes = _whole_numbers("devices_per_team", sizes)
    workdir = given["workdir"] or "runs/{dataset}_{model}_{algorithm}_{seed}".format(
        **given
    )
    workdir = workdir.replace("{seed}", str(given["seed"]))
    config = Config(
        **given
        | {
            "team_sizes": sizes * num_teams if len(sizes) == 1 else sizes,
            "batch_size": given["batch_size"] or None,
            "hidden": _whole_numbers("hidden", given["hidden"]),
            "hparam": _last_of_each(given["hparam"]),
            "workdir": workdir,
        }
    )
    if len(config.team_sizes) != num_teams:
        raise InputError(
            f"--devices_per_team gives {len(sizes)} sizes for --num_teams={num_teams}; "
            "give one size, or one per team."
        )
    check(config)
    return config


def check(config: Config) -> None:
    """Checks what can be said of the numbers alone.

    Raises:
      InputError: one is out of its range.
    """
    for name in ("num_rounds", "eval_every", "rounds_per_call"):
        check_count(f"--{name}", getattr(config, name))
    for name in ("device_chunk", "chips", "formation_rounds"):
        if getattr(config, name) is not None:
            check_count(f"--{name}", getattr(config, name))
    if config.distributed and config.chips:
        raise InputError(
            f"--chips={config.chips} cannot be used with --distributed, which uses "
            "all chips of all processes."
        )
    if not 0 <= (config.batch_size or 0) <= MOST:
        raise InputError(
            f"--batch_size must be 1 to {MOST}, or 0 for all; got {config.batch_size}."
        )
    if not 0 <= config.seed < 2**32:
        raise InputError(f"--seed must be 0 to 4294967295, got {config.seed}.")
    for name in ("l2", "synthetic_alpha", "synthetic_beta"):
        if not 0 <= (value := getattr(config, name)) <= LARGEST:
            raise InputError(f"--{name} must be 0 to {LARGEST:g}, got {value}.")
    if not 0 < config.formation_lr <= LARGEST:
        raise InputError(
            f"--formation_lr must be above 0 and at most {LARGEST:g}, got "
            f"{config.formation_lr}."
        )
    _check_sizes(config.team_sizes)
    steps = config.num_rounds * config.team_steps * config.device_steps
    if steps >= 2**31:
        raise InputError(
            f"--num_rounds x --team_steps x --device_steps is {steps} steps a device; "
            "2147483647 can be counted."
        )


def _last_of_each(settings):
    """A later --hparam=name=value replaces an earlier one, of a preset for instance.

    Numbers are spelled in one way and sorted, so that the same run looks the same.
    """
    last = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        with contextlib.suppress(ValueError):
            setting = f"{name}={float(text)!r}"
        last[name] = setting
    return tuple(last[name] for name in sorted(last))


def _flag_names():
    fields = [field.name for field in dataclasses.fields(Config)]
    fields.remove("team_sizes")
    return [*fields, "num_teams", "devices_per_team"]


def _whole_numbers(flag, texts):
    try:
        return tuple(int(text) for text in texts)
    except ValueError as error:
        raise InputError(
            f"--{flag} takes whole numbers, got {','.join(texts)}."
        ) from error


def _check_sizes(sizes):
    if not sizes or min(sizes) < 1 or sum(sizes) > MOST:
        raise InputError(
            f"--devices_per_team must be at least 1 and all devices at most {MOST}, "
            f"got {min(sizes, default=0)} in a team and {sum(sizes)} in all."
        )
