"""The raw files of a dataset: found on this machine, or downloaded, and checked."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from permfl_jax import errors, plain_files
from permfl_jax.data import examples

_CONNECT_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class RawFiles:
    """The raw files of a dataset, wherever they are.

    Attributes:
      name: the dataset's; also of the folder of its raw files.
      options: where the user keeps things.
      url_infos: TFDS's `{url: size, checksum and file name}` for the dataset.
    """

    name: str
    options: examples.SourceOptions
    url_infos: Mapping[str, Any]

    @property
    def manual(self) -> pathlib.Path | None:
        """The folder that the user may have put raw files into."""
        return self.options.manual_path(self.name)

    def check_manual(self) -> None:
        """Raises `InputError` for a raw file that is not what TFDS knows."""
        for info in self.url_infos.values():
            if self._has(info.filename):
                check_file(self.manual / info.filename, info.checksum)

    def fetch(self, dl_manager: Any) -> Mapping[str, os.PathLike]:
        """`{file name: path}` of all raw files; downloads those that are not there."""
        missing = [u for u, i in self.url_infos.items() if not self._has(i.filename)]
        urls = {info.filename: url for url, info in self.url_infos.items()}
        try:
            if missing:
                _knock(missing[0])
            return dl_manager.download(urls)
        # Whatever went wrong on the way to the server, the user's remedy is the same.
        except Exception as error:
            raise errors.InputError(self._unobtainable(error)) from error

    def _has(self, filename: str) -> bool:
        return self.manual is not None and (self.manual / filename).exists()

    def _unobtainable(self, error: Exception) -> str:
        names = [i.filename for i in self.url_infos.values()]
        looked = f"--manual_dir={self.options.manual_dir}"
        if self.manual is None:
            looked = "--manual_dir (not given)"
        return (
            f"dataset {self.name} is neither prepared in "
            f"--data_dir={self.options.data_path()}, nor complete as raw files in "
            f"{looked}, and could not be downloaded ({type(error).__name__}): give "
            f"--manual_dir=DIR with {', '.join(sorted(names))} in DIR/{self.name}, or "
            "run once with a network."
        )


def check_file(path: pathlib.Path, checksum: str, most: int | None = None) -> None:
    """Raises `InputError` unless the file's SHA-256 is `checksum`.

    Args:
      path: of the file.
      checksum: in hexadecimal.
      most: bytes that are read; what is larger has another checksum.
    """
    try:
        with plain_files.open_plain(path) as stream:
            if most is not None and os.fstat(stream.fileno()).st_size > most:
                raise OSError(None, f"larger than {most} bytes", os.fspath(path))
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise errors.InputError(
            f"{path} (from --manual_dir) cannot be read: {error.strerror}."
        ) from error
    if found != checksum:
        raise errors.InputError(
            f"{path} (from --manual_dir) is truncated, damaged or another dataset's: "
            f"its SHA-256 is {found} and must be {checksum}."
        )


def _knock(url: str) -> None:
    """Raises at once if the server cannot be reached; TFDS retries for minutes."""
    import requests

    with requests.get(url, stream=True, timeout=_CONNECT_SECONDS) as response:
        response.raise_for_status()


def download(url: str, most: int) -> bytes:
    """The content behind `url`, cut off after `most` bytes."""
    import requests

    with requests.get(url, stream=True, timeout=_CONNECT_SECONDS) as response:
        response.raise_for_status()
        content = b""
        for chunk in response.iter_content(2**16):
            content += chunk
            if len(content) >= most:
                break
        return content[:most]
