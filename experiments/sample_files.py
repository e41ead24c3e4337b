"""Samples from a `.npz` of the user, read with suspicion; predictions and models out.

A file of samples holds `x` `[n, ...]`, in the form in which the dataset has them
(before scaling), and maybe `y` `[n]`. What an array claims to be is checked before it
is read.
"""

import csv
import io
import os
from typing import NamedTuple

import numpy as np

from permfl_jax import plain_files
from permfl_jax.errors import InputError

PREDICTIONS = (".npz", ".csv")


class Form(NamedTuple):
    """What samples of a dataset look like.

    Attributes:
      shape: of one sample.
      dtype: of its numbers.
      num_classes: C.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    num_classes: int


class SampleSet(NamedTuple):
    """Samples, and their labels if there are any.

    Attributes:
      x: `[n, ...]`, n >= 1.
      y: `[n]` int32, or `None`.
    """

    x: np.ndarray
    y: np.ndarray | None


def read(flag: str, name: str, form: Form, *, labelled: bool = False) -> SampleSet:
    """Reads `x` and maybe `y`; nothing else of the file.

    Args:
      flag: that named the file, for the sentence.
      name: of the file.
      form: what the samples must look like.
      labelled: `y` has to be there.

    Raises:
      InputError: the file is not as it has to be.
    """
    who = f"{flag}={name}"
    try:
        with plain_files.open_arrays(os.path.expanduser(name)) as arrays:
            x = _samples(who, arrays, form)
            if "y" not in arrays.names:
                if labelled:
                    raise InputError(f"{who} holds no array y, but labels are needed.")
                return SampleSet(x, None)
            return SampleSet(x, _labels(who, arrays, len(x), form.num_classes))
    except OSError as error:
        raise InputError(f"{who} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(
            f"{flag}={error}; it must be an .npz of plain arrays."
        ) from error


def _samples(who, arrays, form):
    if "x" not in arrays.names:
        raise InputError(
            f"{who} holds no array x (it has: {_names(arrays)}), but samples x "
            f"[n, {_sizes(form.shape)}] are needed."
        )
    shape, dtype = arrays.form("x")
    if len(shape) < 1 or shape[1:] != form.shape or not shape[0]:
        raise InputError(
            f"{who} holds x of shape {shape}, but the run's model needs "
            f"[n, {_sizes(form.shape)}] with n at least 1."
        )
    floats = np.issubdtype(form.dtype, np.floating)
    if not np.issubdtype(dtype, np.floating if floats else np.integer):
        raise InputError(
            f"{who} holds x as {dtype}, but the run's dataset has {form.dtype}, "
            "before scaling."
        )
    x = arrays.read("x")
    with np.errstate(over="ignore"):  # found in the next line
        result = x.astype(form.dtype)
    if not np.isfinite(result).all() if floats else (result != x).any():
        wanted = "finite numbers" if floats else f"numbers that fit {form.dtype}"
        raise InputError(f"{who} holds x with others than {wanted}.")
    return result


def _labels(who, arrays, count, num_classes):
    shape, dtype = arrays.form("y")
    if shape != (count,) or not np.issubdtype(dtype, np.integer):
        raise InputError(
            f"{who} holds y as {dtype} of shape {shape}, but integers of shape "
            f"({count},) are needed, a label for each x."
        )
    y = arrays.read("y")
    if not 0 <= y.min() <= y.max() < num_classes:
        raise InputError(
            f"{who} holds labels y from {y.min()} to {y.max()}, but the run's are 0 to "
            f"{num_classes - 1}."
        )
    return y.astype(np.int32)


def _names(arrays):
    return ", ".join(sorted(arrays.names)[:5]) or "nothing"


def _sizes(shape):
    return ", ".join(map(str, shape))


def write_predictions(name: str, probability: np.ndarray, y: np.ndarray | None) -> None:
    """Writes `label`, `probability` and, if known, `y`, one row for each sample.

    Args:
      name: of the file, one of `PREDICTIONS`.
      probability: `[n, C]`.
      y: `[n]`, or `None`.

    Raises:
      InputError: it cannot be written.
    """
    label = probability.argmax(axis=1).astype(np.int32)
    known = {} if y is None else {"y": y}
    if name.endswith(".npz"):
        arrays = {"label": label, "probability": probability, **known}
        write_arrays("--predictions", name, arrays)
        return
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    classes = [f"probability_{c}" for c in range(probability.shape[1])]
    rows.writerow(["label", *known, *classes])
    columns = [[value] for value in label] if y is None else zip(label, y, strict=True)
    rows.writerows(
        [*first, *row] for first, row in zip(columns, probability, strict=True)
    )
    write("--predictions", name, text.getvalue().encode())


def write_arrays(flag: str, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes a `.npz`; arguments as `write`."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write(flag, name, content.getvalue())


def write(flag: str, name: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file, all at once.

    Args:
      flag: that named it.
      name: of the file.
      content: of it.

    Raises:
      InputError: it cannot be written.
    """
    try:
        with plain_files.whole(os.path.expanduser(name)) as path:
            path.write_bytes(content)
    except (OSError, ValueError) as error:
        raise InputError(f"{flag}={name} cannot be written ({error}).") from error
