"""Datasets. To add one: a file with `name(options) -> Examples`, and a line below."""

from permfl_jax import errors
from permfl_jax.data import (
    banking77,
    cifar100,
    clinc_oos,
    digits,
    emnist_digits,
    fashion_mnist,
    femnist,
    mnist,
    shakespeare,
    synthetic,
)
from permfl_jax.data.examples import Examples, SourceOptions

__all__ = ["DATASETS", "Examples", "SourceOptions", "load"]

DATASETS = {
    "banking77": banking77.banking77,
    "cifar100": cifar100.cifar100,
    "clinc_oos": clinc_oos.clinc_oos,
    "digits": digits.digits,
    "emnist_digits": emnist_digits.emnist_digits,
    "fashion_mnist": fashion_mnist.fashion_mnist,
    "femnist": femnist.femnist,
    "mnist": mnist.mnist,
    "shakespeare": shakespeare.shakespeare,
    "synthetic": synthetic.synthetic,
}


def load(name: str, options: SourceOptions) -> Examples:
    """Loads the dataset called `name`.

    Raises:
      InputError: the name is unknown, or the dataset cannot be had.
    """
    if name not in DATASETS:
        raise errors.InputError(
            f"--dataset must be one of {', '.join(sorted(DATASETS))}, got {name!r}."
        )
    return DATASETS[name](options)
