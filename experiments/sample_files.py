"""Samples from a `.npz` of the user, read with suspicion; predictions and models out.

A file of samples holds `x` `[n, ...]`, in the form in which the dataset has them
(before scaling), and maybe `y` `[n]`. What an array claims to be is checked before it
is read.
"""

import contextlib
import csv
import io
import math
import os
import pathlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from permfl_jax.errors import InputError

_MOST_BYTES = 2**32  # of one array
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
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
    with _opened(who, name) as archive:
        x = _samples(who, archive, form)
        if "y.npy" not in archive.namelist():
            if labelled:
                raise InputError(f"{who} holds no array y, but labels are needed.")
            return SampleSet(x, None)
        return SampleSet(x, _labels(who, archive, len(x), form.num_classes))


@contextlib.contextmanager
def _opened(who: str, name: str) -> Iterator[zipfile.ZipFile]:
    try:
        path = os.path.expanduser(name)
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe may never end
            raise InputError(f"{who} is no ordinary file.")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        raise InputError(f"{who}: there is no such file.") from error
    except InputError:
        raise
    except (
        *(OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, OverflowError),
    ) as error:
        raise InputError(
            f"{who} is no .npz of plain arrays, or a damaged one."
        ) from error


def _samples(who, archive, form):
    if "x.npy" not in archive.namelist():
        raise InputError(
            f"{who} holds no array x (it has: {_names(archive)}), but samples x "
            f"[n, {_sizes(form.shape)}] are needed."
        )
    shape, dtype = _header(who, archive, "x")
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
    x = _array(archive, "x", shape)
    with np.errstate(over="ignore"):  # found in the next line
        result = x.astype(form.dtype)
    if not np.isfinite(result).all() if floats else (result != x).any():
        wanted = "finite numbers" if floats else f"numbers that fit {form.dtype}"
        raise InputError(f"{who} holds x with others than {wanted}.")
    return result


def _labels(who, archive, count, num_classes):
    shape, dtype = _header(who, archive, "y")
    if shape != (count,) or not np.issubdtype(dtype, np.integer):
        raise InputError(
            f"{who} holds y as {dtype} of shape {shape}, but integers of shape "
            f"({count},) are needed, a label for each x."
        )
    y = _array(archive, "y", shape)
    if not 0 <= y.min() <= y.max() < num_classes:
        raise InputError(
            f"{who} holds labels y from {y.min()} to {y.max()}, but the run's are 0 to "
            f"{num_classes - 1}."
        )
    return y.astype(np.int32)


def _header(who, archive, name):
    """Shape and dtype that an array claims, once they can be true."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        shape, _, dtype = _READERS[np.lib.format.read_magic(file)](file)
        begin = file.tell()
    if dtype.hasobject:
        raise InputError(f"{who} holds {name} as pickled objects, which are not read.")
    size = math.prod(shape) * dtype.itemsize
    if size > _MOST_BYTES:
        raise InputError(f"{who} holds {name} of {size} bytes; 4 GiB can be read.")
    if begin + size != member.file_size:
        raise ValueError("not as long as it claims")
    return shape, dtype


def _array(archive, name, shape):
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the end: its checksum is compared here
    return array.reshape(shape)


def _names(archive):
    names = sorted(name.removesuffix(".npy") for name in archive.namelist())
    return ", ".join(names[:5]) or "nothing"


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


def write(flag: str, name: str, content: bytes) -> None:
    """Writes a file, all at once.

    Args:
      flag: that named it.
      name: of the file.
      content: of it.

    Raises:
      InputError: it cannot be written.
    """
    path = pathlib.Path(os.path.expanduser(name))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise InputError(f"{flag}={name} cannot be written ({error}).") from error
