"""The flags of a run, and the frozen record made of them."""

import dataclasses
from typing import Any

from absl import flags

from permfl_jax import algorithms, data, models, partitions, teams
from permfl_jax.errors import InputError
from permfl_jax.schedule import AGGREGATES, BATCHINGS, WEIGHTS


def _names(registry) -> str:
    return ", ".join(registry)


flags.DEFINE_string("dataset", "digits", f"One of: {_names(data.DATASETS)}.")
flags.DEFINE_string("model", "mclr", f"One of: {_names(models.MODELS)}.")
flags.DEFINE_string("algorithm", "permfl", f"One of: {_names(algorithms.ALGORITHMS)}.")
flags.DEFINE_integer("num_teams", 4, "Teams M.")
flags.DEFINE_list(
    "devices_per_team", ["10"], "Devices in each team: one number, or M of them."
)
flags.DEFINE_integer("classes_per_device", 2, "Classes each device holds (paper).")
flags.DEFINE_string(
    "partition",
    None,
    f"How samples go to devices: {_names(partitions.PARTITIONS)}. Default: natural "
    "where the dataset knows its owners (synthetic), else paper.",
)
flags.DEFINE_string("team_formation", "random", f"One of: {_names(teams.FORMATIONS)}.")
flags.DEFINE_integer("num_rounds", 100, "Global rounds T.")
flags.DEFINE_integer("team_steps", 10, "Team rounds K per global round.")
flags.DEFINE_integer("device_steps", 20, "Device steps L per team round.")
flags.DEFINE_integer("batch_size", 64, "Samples per device step; 0 for all.")
flags.DEFINE_string(
    "batching", "shuffle", f"{_names(BATCHINGS)}: new order each pass, or stored order."
)
flags.DEFINE_string("weights", "uniform", f"Of the means: {_names(WEIGHTS)}.")
flags.DEFINE_string(
    "aggregate",
    "participants",
    f"Teams that the server averages when not all take part: {_names(AGGREGATES)}.",
)
flags.DEFINE_multi_string(
    "hparam",
    [],
    "name=value, repeatable. permfl: device_lr (alpha), team_lr (eta), server_lr "
    "(beta), device_prox (lambda), team_prox (gamma), device_pull (a separate lambda "
    "for device steps, as in the released code). local: device_lr.",
)
flags.DEFINE_integer("teams_per_round", None, "Teams m per global round. Default: all.")
flags.DEFINE_integer(
    "devices_per_round", None, "Devices n of each team per team round. Default: all."
)
flags.DEFINE_integer("eval_every", 1, "Global rounds between evaluations.")
flags.DEFINE_integer(
    "rounds_per_call", 1, "Global rounds per compiled call; does not change results."
)
flags.DEFINE_integer("seed", 0, "Of everything random.")
flags.DEFINE_float("l2", 0.0, "Adds l2/2 |params|^2 to the loss of every sample.")
flags.DEFINE_list("hidden", [], "Widths of dnn's one or two hidden layers.")
flags.DEFINE_float("validation_fraction", 0.10, "Of each device's samples.")
flags.DEFINE_float("test_fraction", 0.15, "Of each device's samples.")
flags.DEFINE_float("synthetic_alpha", 0.5, "Spread of models (dataset synthetic).")
flags.DEFINE_float("synthetic_beta", 0.5, "Spread of inputs (dataset synthetic).")
flags.DEFINE_bool(
    "local_floor", True, "Also train every device alone with the same steps, as floor."
)
flags.DEFINE_string(
    "workdir", None, "Folder for results. Default: runs/DATASET_MODEL_ALGORITHM_SEED."
)
flags.DEFINE_string("data_dir", None, "Prepared data. Default: ~/.cache/permfl_jax.")
flags.DEFINE_string(
    "manual_dir", None, "Folder with one folder of raw files per dataset (offline)."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Every flag of a run, after parsing.

    `team_sizes` is `--devices_per_team` spelled out; `batch_size` is `None` for all.
    """

    dataset: str
    model: str
    algorithm: str
    team_sizes: tuple[int, ...]
    classes_per_device: int
    partition: str | None
    team_formation: str
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
    seed: int
    l2: float
    hidden: tuple[int, ...]
    validation_fraction: float
    test_fraction: float
    synthetic_alpha: float
    synthetic_beta: float
    local_floor: bool
    workdir: str
    data_dir: str | None
    manual_dir: str | None

    @property
    def num_devices(self) -> int:
        """D."""
        return sum(self.team_sizes)


def from_flags(values: flags.FlagValues) -> Config:
    """The record of parsed flags.

    Raises:
      InputError: a count below 1, team sizes that do not match the number of teams.
    """
    given: dict[str, Any] = {name: values[name].value for name in _flag_names()}
    num_teams, sizes = given.pop("num_teams"), given.pop("devices_per_team")
    if num_teams < 1:
        raise InputError(f"--num_teams must be at least 1, got {num_teams}.")
    for name in ("num_rounds", "eval_every", "rounds_per_call"):
        if given[name] < 1:
            raise InputError(f"--{name} must be at least 1, got {given[name]}.")
    if given["batch_size"] < 0:
        raise InputError(
            f"--batch_size must be at least 1, or 0 for all; got {given['batch_size']}."
        )
    if not 0 <= given["seed"] < 2**32:
        raise InputError(f"--seed must be 0 to 4294967295, got {given['seed']}.")
    if not 0 <= given["l2"] < float("inf"):
        raise InputError(f"--l2 must be a number of at least 0, got {given['l2']}.")
    team_sizes = _team_sizes(num_teams, _whole_numbers("devices_per_team", sizes))
    workdir = given["workdir"] or "runs/{dataset}_{model}_{algorithm}_{seed}".format(
        **given
    )
    return Config(
        **given
        | {
            "team_sizes": team_sizes,
            "batch_size": given["batch_size"] or None,
            "hidden": _whole_numbers("hidden", given["hidden"]),
            "hparam": tuple(given["hparam"]),
            "workdir": workdir,
        }
    )


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


def _team_sizes(num_teams, sizes):
    if len(sizes) == 1:
        sizes = sizes * num_teams
    if len(sizes) != num_teams:
        raise InputError(
            f"--devices_per_team gives {len(sizes)} sizes for --num_teams={num_teams}; "
            "give one size, or one per team."
        )
    if min(sizes) < 1:
        raise InputError(f"--devices_per_team must be at least 1, got {min(sizes)}.")
    return sizes
