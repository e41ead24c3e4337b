"""Which code computed something: its commit and the versions of what it stands on."""

import pathlib
import platform
import subprocess
from importlib import metadata

_PACKAGES = (
    "permfl-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
)


def git_commit() -> str | None:
    """The commit this package runs from, `+changes` if edited; `None` if installed."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder)]
    try:
        # Installed into a folder of another project, this file is not tracked.
        _output([*command, "ls-files", "--error-unmatch", pathlib.Path(__file__).name])
        commit = _output([*command, "rev-parse", "HEAD"])
        changed = _output([*command, "status", "--porcelain", "-uno"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def _output(command):
    return subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.strip()


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers hang on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
