"""One HTML page, and PNGs, about one run or several: figures, tables, settings.

    python -m experiments.report runs/quickstart
    python -m experiments.report runs/quickstart_0 runs/quickstart_1 --output=two.html

It reads the folders alone, never a dataset, also while a run is going on. Runs that
differ only in their seed are shown as a mean and a band.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import flags

from permfl_jax.errors import InputError

from . import program, report_folder, report_page, sample_files

flags.DEFINE_string(
    "output",
    None,
    "The page, a file that ends in .html. Default: report.html, in the folder of the "
    "run if it is only one.",
)
flags.DEFINE_string(
    "png_dir",
    None,
    "Folder for the figures as PNG. Default: that of the page, as report_files/.",
)


def write(
    names: Sequence[str], output: str | None = None, png_dir: str | None = None
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes the report.

    Args:
      names: folders of runs.
      output: see the flag.
      png_dir: see the flag.

    Returns:
      The page and the folder of its PNGs.

    Raises:
      InputError: a folder holds no run, or a file cannot be written.
    """
    if not names:
        raise InputError("Name the folder of a run, or several.")
    runs = [report_folder.read(name) for name in names]
    real = [os.path.realpath(os.path.expanduser(name)) for name in names]
    for name, path in zip(names, real, strict=True):
        if real.count(path) > 1:
            raise InputError(f"The folder {name} is named twice.")
    path = _page(names, output)
    folder = path.with_name(f"{path.stem}_files")
    if png_dir is not None:
        folder = pathlib.Path(os.path.expanduser(png_dir))
    whole = report_page.page(runs)
    for drawing in whole.drawings:
        sample_files.write("--png_dir", folder / f"{drawing.name}.png", drawing.png)
    sample_files.write("--output", path, whole.html.encode("utf-8"))
    return path, folder


def _page(names, output):
    if output is None:
        first = os.path.expanduser(names[0])
        return pathlib.Path(first if len(names) == 1 else ".") / "report.html"
    path = pathlib.Path(os.path.expanduser(output))
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"--output={output} must end in .html.")
    return path


def main(argv: Sequence[str]) -> None:
    """Writes the report that the flags ask for."""
    values = flags.FLAGS
    path, folder = write(argv[1:], values.output, values.png_dir)
    print(f"{path}\nfigures: {folder}/")


def console() -> None:
    """The command permfl-report."""
    program.run(main, "experiments.report")


if __name__ == "__main__":
    console()
