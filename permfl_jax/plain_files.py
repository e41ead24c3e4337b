"""Ordinary files: read before they can do harm, and written whole or not at all.

A pipe or a device is never read, and nothing is allocated on the word of a file: what
it holds has to fit what it claims.
"""

import contextlib
import errno
import io
import math
import os
import pathlib
import stat
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from permfl_jax.errors import InputError

# Random rows of a partition shrink to a quarter, devices of equal size to a fiftieth.
_MOST_SHRUNK = 200
_SMALL = 2**26  # bytes that any file may stand for
_HEADER = 10_000  # bytes that NumPy reads of a header
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Within it, a file is written that then takes the place of `path` at once.

    Args:
      path: of the file; its folder is made if it is not there.

    Yields:
      The path to write to, in the same folder and with the same suffix.

    Raises:
      OSError: it cannot be written; what was at `path` is still there.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / unfinished(path.name)
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())  # on disk before it replaces what was there
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sync(folder):
    """The new name is on disk too, where a system can do so."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def unfinished(name: str) -> str:
    """What `whole` calls a file while it is written."""
    stem, suffix = os.path.splitext(name)
    return f".{stem}.tmp{suffix}"


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
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path)
            )
        if not stat.S_ISREG(mode):
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


class Arrays:
    """Arrays of an open .npz file.

    Attributes:
      names: of the arrays.
    """

    def __init__(self, archive: zipfile.ZipFile, most: int):
        """Reads names alone.

        Args:
          archive: the file.
          most: bytes that an array may have.
        """
        self._archive, self._most = archive, most
        self.names = [name.removesuffix(".npy") for name in archive.namelist()]

    def form(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """The shape and type that an array claims, once they can be true.

        Raises:
          ValueError: they cannot.
        """
        info = self._archive.getinfo(f"{name}.npy")
        if info.file_size > self._most:
            raise ValueError(f"{name} claims {info.file_size} bytes")
        with self._archive.open(info) as stream:
            head = io.BytesIO(stream.read(_HEADER + 12))
        reader = _READERS.get(np.lib.format.read_magic(head))
        if reader is None:
            raise ValueError(f"{name} is of an unknown version")
        shape, _, dtype = reader(head)
        if dtype.hasobject:
            raise ValueError(f"{name} holds pickled objects, which are not read")
        if any(type(number) is not int or number < 0 for number in shape):
            raise ValueError(f"{name} holds no plain array")
        if math.prod(shape) * dtype.itemsize != info.file_size - head.tell():
            raise ValueError(f"{name} does not hold what its header says")
        return shape, dtype

    def read(self, name: str) -> np.ndarray:
        """One array; nothing is unpickled.

        Raises:
          ValueError: it is damaged.
        """
        self.form(name)
        with self._archive.open(f"{name}.npy") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read(1)  # the end: its checksum is compared here
        return array


@contextlib.contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[Arrays]:
    """Opens an .npz file.

    Args:
      path: of the file.

    Raises:
      OSError: it cannot be opened, or is no ordinary file.
      ValueError: it is no .npz file, or one that is damaged or lies.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                yield Arrays(archive, _SMALL + _MOST_SHRUNK * size)
        except InputError:
            raise
        except KeyError as error:
            raise ValueError(f"{path} lacks an array: {error}") from error
        # zipfile, zlib and NumPy's parser of headers raise some ten kinds of errors.
        except Exception as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def read_arrays(
    path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file.

    Args:
      path: of the file.
      names: of the arrays; by default all.

    Raises:
      OSError: the file cannot be opened, or is no ordinary file.
      ValueError: it is no .npz file, lacks an array, or claims more than it holds.
    """
    with open_arrays(path) as arrays:
        return {name: arrays.read(name) for name in names or arrays.names}
