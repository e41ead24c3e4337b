"""The published accuracies, in percent, second-hand.

Source: Tables 1 to 3 of arXiv:2407.14251 (v1) as a public fork of the authors' code
transcribes them (kaushik-kyle/PerMFL_1, docs/comparison.md); the paper itself was not
at hand. Standard deviations are left out: their units are not consistent. Tables 1 and
3 have no TM.
"""

from collections.abc import Sequence

from ..config import Config

NOTE = (
    "Published numbers are second-hand (a transcription of arXiv:2407.14251, Tables 1 "
    "to 3). FedAvg's MNIST and Synthetic MCLR cells are identical there, 84.87: a "
    "misprint in the paper or in the copy."
)

_DATASETS = ("mnist", "synthetic", "fashion_mnist", "emnist_digits")
# (method, label) to the datasets' numbers, MCLR and then DNN (Synthetic) or CNN.
_TABLE_1: dict[tuple[str, str], tuple[Sequence[float], Sequence[float]]] = {
    ("fedavg", "GM"): ((84.87, 84.87, 79.80, 91.60), (93.17, 84.53, 84.14, 92.73)),
    ("perfedavg", "PM"): (
        (94.81, 83.91, 94.75, 97.57),
        (91.845, 75.93, 88.69, 97.37),
    ),
    ("pfedme", "GM"): ((75.50, 81.93, 83.45, 88.78), (80.12, 81.23, 68.64, 91.81)),
    ("pfedme", "PM"): ((88.89, 87.61, 91.32, 91.23), (97.40, 87.86, 96.30, 97.18)),
    ("pfedbayes", "PM"): ((94.13, 87.05, 92.14, 94.13), ()),
    ("ditto", "GM"): ((84.81, 82.35, 74.02, 91.03), (87.30, 81.12, 57.80, 90.58)),
    ("hsgd", "GM"): ((87.41, 84.29, 81.653, 92.33), (86.59, 87.42, 79.84, 96.03)),
    ("al2gd", "PM"): ((93.70, 84.75, 98.52, 98.72), (91.04, 84.92, 71.32, 92.94)),
    ("demlearn", "GM"): ((87.32, 67.93, 62.60, 69.09), (90.75, 68.91, 64.84, 96.63)),
    ("demlearn", "PM"): ((91.26, 81.21, 97.50, 97.24), (97.20, 82.74, 98.64, 98.74)),
    ("permfl", "GM"): ((86.92, 84.92, 83.71, 91.68), (89.39, 87.53, 79.15, 93.12)),
    ("permfl", "PM"): ((96.87, 87.94, 96.77, 96.49), (98.15, 87.89, 98.67, 98.79)),
}
# (formation, label) to (dataset, model) to PerMFL's number.
_PAIRS = [
    (dataset, model)
    for dataset in ("mnist", "fashion_mnist", "emnist_digits")
    for model in ("mclr", "cnn")
]
_TABLE_2 = {
    ("worst_case", "PM"): (96.86, 95.80, 97.14, 95.62, 96.57, 98.13),
    ("worst_case", "GM"): (80.48, 82.21, 76.18, 70.28, 88.05, 87.05),
    ("average_case", "PM"): (97.01, 97.02, 96.72, 97.38, 96.39, 98.15),
    ("average_case", "GM"): (80.86, 83.59, 74.45, 74.66, 90.36, 87.43),
}
# AL2GD's CIFAR-100 cell reads "0.65.87" in the copy and is left blank.
_TABLE_3 = {
    ("femnist", "hsgd", "GM"): 64.05,
    ("femnist", "al2gd", "PM"): 44.67,
    ("femnist", "permfl", "GM"): 57.57,
    ("femnist", "permfl", "PM"): 81.29,
    ("cifar100", "hsgd", "GM"): 12.32,
    ("cifar100", "permfl", "GM"): 13.68,
    ("cifar100", "permfl", "PM"): 66.95,
}


def published(settings: Config, method: str, label: str) -> float | None:
    """The published number of a cell, in percent; `None` if there is none.

    Args:
      settings: of the column: dataset, model and team formation tell the table.
      method: name of the method.
      label: `PM`, `TM` or `GM`.
    """
    dataset, model = settings.dataset, settings.model
    formation = settings.team_formation
    if formation in ("worst_case", "average_case"):
        row = _TABLE_2.get((formation, label))
        if method != "permfl" or row is None or (dataset, model) not in _PAIRS:
            return None
        return row[_PAIRS.index((dataset, model))]
    if model == "mclr" and (dataset, method, label) in _TABLE_3:
        return _TABLE_3[dataset, method, label]
    networks = "dnn" if dataset == "synthetic" else "cnn"
    if (method, label) not in _TABLE_1 or dataset not in _DATASETS:
        return None
    if model not in ("mclr", networks):
        return None
    row = _TABLE_1[method, label][model == networks]
    return row[_DATASETS.index(dataset)] if row else None
