"""The flags that say which data a run uses, and how devices and teams get it."""

from collections.abc import Iterable

from absl import flags

from permfl_jax import data, partitions, teams


def _names(registry: Iterable[str]) -> str:
    return ", ".join(registry)


flags.DEFINE_string("dataset", "digits", f"One of: {_names(data.DATASETS)}.")
flags.DEFINE_string(
    "partition",
    None,
    f"How samples go to devices: {_names(partitions.PARTITIONS)}. Default: natural "
    "where the dataset knows its owners (synthetic), domains where it knows groups, "
    "else paper.",
)
flags.DEFINE_string(
    "team_formation",
    None,
    f"One of: {_names(teams.FORMATIONS)}. Default: consecutive for partitions that "
    f"make teams ({_names(sorted(partitions.MAKE_TEAMS))}), else random.",
)
flags.DEFINE_float(
    "formation_lr",
    0.05,
    "Step size of the plain SGD by which devices are told apart before they have teams "
    "(team_formation loss_choice, model_distance, update_cosine).",
)
flags.DEFINE_integer(
    "formation_rounds",
    None,
    "Rounds of it, of --device_steps steps each. Default: 1 for update_cosine and "
    "model_distance, which compare what the last one changed, 10 for loss_choice.",
)
flags.DEFINE_integer(
    "classes_per_device", 2, "Classes each device holds (partitions paper, classes)."
)
flags.DEFINE_float(
    "dirichlet_alpha",
    0.5,
    "Skew of labels between devices, small is skewed: of the Dirichlet draw that "
    "shares each class among all devices (partition dirichlet), or among those of a "
    "team (domains).",
)
flags.DEFINE_float(
    "team_alpha",
    0.5,
    "Skew of labels between teams, small is skewed: Dirichlet concentration per class "
    "(partition two_level_dirichlet).",
)
flags.DEFINE_float(
    "device_alpha",
    1.0,
    "Skew of labels between the devices of a team, small is skewed: Dirichlet "
    "concentration per class (partition two_level_dirichlet).",
)
flags.DEFINE_float(
    "quantity_sigma",
    1.0,
    "Skew of sizes, 0 is none: of lognormal(0, sigma) (partition quantity).",
)
flags.DEFINE_float(
    "class_imbalance",
    1.0,
    "Examples of the first class over those of the last, by leaving some out; those "
    "between fall by equal factors. 1: all are used.",
)
flags.DEFINE_integer(
    "min_samples",
    10,
    "Fewest samples of a device before the split, or an equal share if that is less; "
    "made up from the largest devices, those of the same team where the partition "
    "makes teams (partitions dirichlet, domains, quantity, two_level_dirichlet).",
)
flags.DEFINE_float("validation_fraction", 0.10, "Share of each device's samples.")
flags.DEFINE_float("test_fraction", 0.15, "Share of each device's samples.")
flags.DEFINE_float(
    "synthetic_alpha",
    0.5,
    "Spread of models (dataset synthetic); as published, it moves "
    "all classes alike and so no label.",
)
flags.DEFINE_float("synthetic_beta", 0.5, "Spread of inputs (dataset synthetic).")
flags.DEFINE_integer(
    "text_features",
    1024,
    "Numbers that stand for a sentence (datasets of sentences).",
)
flags.DEFINE_string("data_dir", None, "Prepared data. Default: ~/.cache/permfl_jax.")
flags.DEFINE_string(
    "manual_dir", None, "Folder with one folder of raw files per dataset (offline)."
)
