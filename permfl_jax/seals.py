"""Whether the files of a folder are what they were when it was sealed."""

import hashlib
import json
import os
import pathlib

_SEAL = "seal.json"


def broken(folder: pathlib.Path) -> str | None:
    """Why the files of a checkpoint are not what was sealed, or `None`."""
    try:
        sealed = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "was not finished"
    except (OSError, ValueError):
        return "has a damaged seal"
    return None if sealed == _digests(folder) else "has a damaged file"


def _digests(folder):
    """SHA-256 of every file below a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _SEAL
    }


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: pathlib.Path) -> None:
    """Seals a folder; all at once, by a file in it."""
    temporary = folder.with_name(f"{folder.name}.seal.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(_digests(folder), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / _SEAL)
