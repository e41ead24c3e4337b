"""A published file of text: found on this machine, or downloaded, and checked."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import tempfile

from permfl_jax import plain_files
from permfl_jax.data import raw_files
from permfl_jax.data.examples import SourceOptions
from permfl_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file that must be byte for byte the published one.

    Attributes:
      dataset: what users call the dataset.
      folder: the folder of its raw files in `--manual_dir`.
      filename: what the file is called there.
      url: where it is published.
      size: bytes.
      sha256: its SHA-256, in hexadecimal.
    """

    dataset: str
    folder: str
    filename: str
    url: str
    size: int
    sha256: str

    def read(self, options: SourceOptions) -> bytes:
        """The content, from `--manual_dir`, an earlier download, or a download.

        Raises:
          InputError: it is in none of these places, or not the published file.
        """
        manual = options.manual_path(self.folder)
        if manual is not None and (manual / self.filename).exists():
            raw_files.check_file(manual / self.filename, self.sha256, self.size)
            return plain_files.read_bytes(manual / self.filename, self.size)
        kept = options.data_path() / f"{self.dataset}.{self.filename}"
        with contextlib.suppress(OSError):
            if self._is_it(content := plain_files.read_bytes(kept, self.size)):
                return content
        content = self._download(options)
        _store(kept, content, self.dataset)
        return content

    def _is_it(self, content):
        return hashlib.sha256(content).hexdigest() == self.sha256

    def _download(self, options):
        looked = f"--manual_dir={options.manual_dir}"
        if options.manual_dir is None:
            looked = "--manual_dir (not given)"
        try:
            content = raw_files.download(self.url, most=self.size)
        # Whatever went wrong on the way to the server, the user's remedy is the same.
        except Exception as error:
            raise InputError(
                f"dataset {self.dataset} is neither in "
                f"--data_dir={options.data_path()}, nor as a raw file in {looked}, and "
                f"could not be downloaded ({type(error).__name__}): give "
                f"--manual_dir=DIR with {self.filename} in DIR/{self.folder}, or run "
                "once with a network."
            ) from error
        if not self._is_it(content):
            raise InputError(
                f"dataset {self.dataset} could not be downloaded: {self.url} is no "
                "longer the file that was published."
            )
        return content


def _store(path: pathlib.Path, content: bytes, dataset: str) -> None:
    """Writes a file that is never seen half-written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as it:
            finished = pathlib.Path(it) / path.name
            finished.write_bytes(content)
            os.replace(finished, path)
    except OSError as error:
        raise InputError(
            f"dataset {dataset} could not be kept in --data_dir={path.parent} "
            f"({error.strerror}): give a folder that can be written and has room."
        ) from error
