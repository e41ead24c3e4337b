"""Whether the files of a folder are what they were when it was sealed."""

import hashlib
import json
import pathlib

from permfl_jax import plain_files

UNFINISHED = "was not finished"
_SEAL = "seal.json"
_MOST_BYTES = 2**26


def broken(folder: pathlib.Path) -> str | None:
    """Why the files of a checkpoint are not what was sealed, or `None`."""
    try:
        sealed = json.loads(plain_files.read_bytes(folder / _SEAL, _MOST_BYTES))
    except FileNotFoundError:
        return UNFINISHED
    except (OSError, ValueError, RecursionError):
        return "has a damaged seal"
    try:
        return None if sealed == _digests(folder) else "has a damaged file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _digests(folder):
    """SHA-256 of every file below a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() and path.name != _SEAL
    }


def _digest(path):
    with plain_files.open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: pathlib.Path) -> None:
    """Seals a folder; all at once, by a file in it."""
    digests = _digests(folder)  # before there is a file more
    with plain_files.whole(folder / _SEAL) as file:
        file.write_text(json.dumps(digests), encoding="utf-8")
