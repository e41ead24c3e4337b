"""Where the metrics of a run go besides metrics.jsonl.

A writer has the usual three methods: `write_scalars(step, scalars)`, `flush`, `close`.
"""

import contextlib
import csv
import importlib
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from absl import flags

from permfl_jax import plain_files
from permfl_jax.errors import InputError

from .session import Begin

flags.DEFINE_bool(
    "tensorboard",
    False,
    "Write metrics for TensorBoard to WORKDIR/tensorboard too (extra [tb]).",
)
flags.DEFINE_bool(
    "wandb",
    False,
    "Write metrics for Weights & Biases to WORKDIR/wandb too, offline (extra [wandb]).",
)


class MetricWriter(Protocol):
    """Takes the metrics of a run as they come."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """The metrics after global round `step`."""

    def flush(self) -> None:
        """What was written is there when this returns."""

    def close(self) -> None:
        """No more will be written."""


class Several:
    """One writer made of several."""

    def __init__(self, writers: list[MetricWriter]):
        """Of any number, also none."""
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """The metrics after global round `step`."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def flush(self) -> None:
        """What was written is there when this returns."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """No more will be written."""
        for writer in self._writers:
            writer.close()


class TensorBoard:
    """Event files, without TensorFlow."""

    def __init__(self, path: pathlib.Path, first: int, rows: list[dict[str, Any]]):
        """Writes to the folder `path`, and takes back what is there from `first` on.

        Where the folder is new, rows that there are already come first.
        """
        import tensorboardX  # an extra

        earlier = [] if path.is_dir() and any(path.iterdir()) else rows
        self._writer = tensorboardX.SummaryWriter(str(path), purge_step=first)
        for row in earlier:
            self.write_scalars(row["round"], row)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """The metrics after global round `step`."""
        for name, value in scalars.items():
            if name != "round":
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """What was written is there when this returns."""
        self._writer.flush()

    def close(self) -> None:
        """No more will be written."""
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run that is sent nowhere; `wandb sync` sends it later."""

    def __init__(self, path: pathlib.Path, rows: list[dict[str, Any]]):
        """Writes below the folder `path`, rows that there are already first.

        An offline run cannot be gone on with: each start of ours is a whole one.
        """
        import wandb  # an extra

        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            mode="offline", dir=str(path), project="permfl_jax", settings=quiet
        )
        for row in rows:
            self.write_scalars(row["round"], row)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """The metrics after global round `step`."""
        self._run.log(dict(scalars), step=step)

    def flush(self) -> None:
        """Nothing to do: every row is written at once."""

    def close(self) -> None:
        """No more will be written."""
        self._run.finish()


def check_installed() -> None:
    """Before a run starts: whether the flags ask for what is there.

    Raises:
      InputError: a package is missing.
    """
    for flag, package, extra in (
        ("tensorboard", "tensorboardX", "tb"),
        ("wandb", "wandb", "wandb"),
    ):
        if flags.FLAGS[flag].value:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise InputError(
                    f"--{flag} needs a package that is not installed; pip install "
                    f"'permfl-jax[{extra}]', or leave the flag out."
                ) from error


def first_step(begin: Begin) -> int:
    """The first round whose metrics are to come."""
    return begin.rows[-1]["round"] + 1 if begin.rows else 0


@contextlib.contextmanager
def open_all(folder: pathlib.Path, begin: Begin) -> Iterator[MetricWriter]:
    """The writers that the flags ask for.

    Args:
      folder: of the run.
      begin: where the run begins: rows after it are written again.
    """
    writers: list[MetricWriter] = []
    first = first_step(begin)
    if flags.FLAGS.tensorboard:
        writers.append(TensorBoard(folder / "tensorboard", first, begin.rows))
    if flags.FLAGS.wandb:
        writers.append(WeightsAndBiases(folder, begin.rows))
    several = Several(writers)
    try:
        yield several
    finally:
        several.close()


def write_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """All rows as a table; a column for every metric that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with plain_files.whole(path) as file:
        file.write_text(text.getvalue(), encoding="utf-8")
