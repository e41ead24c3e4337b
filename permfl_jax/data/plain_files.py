"""Files that come from elsewhere: opened, and refused, before they can do harm.

A pipe or a device is never read, and nothing is allocated on the word of a file: what
it holds has to fit what it claims.
"""

import io
import math
import os
import stat
import zipfile
from collections.abc import Sequence

import numpy as np

# Random rows of a partition shrink to a quarter, devices of equal size to a fiftieth.
_MOST_SHRUNK = 200
_SMALL = 2**20  # bytes that any file may stand for
_HEADER = 10_000  # bytes that NumPy reads of a header


def open_plain(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens an ordinary file for reading bytes.

    Args:
      path: of the file; links are followed.

    Raises:
      OSError: it cannot be opened, or is a folder, a pipe or a device.
    """
    # Without O_NONBLOCK, opening a pipe may never end.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(None, "no ordinary file", os.fspath(path))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of an ordinary file.

    Args:
      path: of the file.
      most: bytes that it may have.

    Raises:
      OSError: it cannot be read, is no ordinary file, or is larger.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(None, f"larger than {most} bytes", os.fspath(path))
        return file.read(size)


def read_arrays(
    path: str | os.PathLike[str], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file; nothing is unpickled.

    Args:
      path: of the file.
      names: of the arrays to read.

    Raises:
      OSError: the file cannot be opened, or is no ordinary file.
      ValueError: it is no .npz file, lacks an array, or claims more than it holds.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        most = _SMALL + _MOST_SHRUNK * size
        try:
            with zipfile.ZipFile(file) as archive:
                return {name: _array(archive, f"{name}.npy", most) for name in names}
        except KeyError as error:
            raise ValueError(f"{path} lacks an array: {error}") from error
        # zipfile, zlib and NumPy's parser of headers raise some ten kinds of errors.
        except Exception as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def _array(archive, name, most):
    info = archive.getinfo(name)
    if info.file_size > most:
        raise ValueError(f"{name} claims {info.file_size} bytes")
    with archive.open(info) as stream:
        head = io.BytesIO(stream.read(_HEADER + 12))
        version = np.lib.format.read_magic(head)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise ValueError(f"{name} is of version {version}")
        shape, _, dtype = reader(head)
        if dtype.hasobject or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"{name} holds no plain array")
        if math.prod(shape) * dtype.itemsize != info.file_size - head.tell():
            raise ValueError(f"{name} does not hold what its header says")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
