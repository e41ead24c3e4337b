"""What goes on, and ends well, whatever stops a run: resuming, saving, signals."""

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from permfl_jax import results
from permfl_jax.checkpoints import Checkpoints
from permfl_jax.errors import InputError
from permfl_jax.schedule import check_count
from permfl_jax.types import State

from . import machine
from .config import Config

# A save takes a fraction of a second of a core: at most a few hundredths of the time.
_SECONDS_BETWEEN = 30.0
_FLOOR = "checkpoints_floor"

flags.DEFINE_integer(
    "checkpoint_every",
    None,
    "Global rounds between checkpoints, a multiple of --rounds_per_call. Default: one "
    "every 30 seconds. One is written at the end and at SIGTERM or Ctrl-C besides.",
)
flags.DEFINE_integer("keep", 2, "Newest checkpoints that stay, at least 2.")


class StoppedError(Exception):
    """A signal asked the run to stop, and it did, after saving.

    Attributes:
      signum: which.
    """

    def __init__(self, signum: int, round_: int):
        """Names the signal and the round that was saved."""
        name = signal.Signals(signum).name
        super().__init__(
            f"stopped by {name} after round {round_}, which is saved; the same command "
            "goes on from there."
        )
        self.signum = signum


class Begin(NamedTuple):
    """Where a run begins or goes on.

    Attributes:
      state: after `round` rounds.
      rows: evaluations so far.
      seconds: of training so far.
    """

    state: State
    rows: list[dict[str, Any]]
    seconds: float


class Session:
    """One start of a run: where it begins, when it saves, what stops it.

    Use as a context manager around the training; the signals are its own within.
    """

    def __init__(
        self,
        settings: Config,
        folder: results.Workdir | None,
        place: str = "checkpoints",
        say: Callable[[str], None] | None = None,
    ):
        """Reads the flags of checkpoints.

        Args:
          settings: of the run.
          folder: the run's; `None` in processes that write nothing, or without rows.
          place: folder of the checkpoints in that of the run.
          say: how to tell something; `None` for nothing to be told.

        Raises:
          InputError: --checkpoint_every does not go with --rounds_per_call.
        """
        values = flags.FLAGS
        self._settings, self._folder = settings, folder
        self._every = values.checkpoint_every
        if self._every is not None:
            check_count("--checkpoint_every", self._every)
            if self._every % settings.rounds_per_call:
                raise InputError(
                    f"--checkpoint_every={self._every} must be a multiple of "
                    f"--rounds_per_call={settings.rounds_per_call}."
                )
        path = os.path.join(os.path.expanduser(settings.workdir), place)
        self.checkpoints = Checkpoints(path, values.keep)
        self._seconds = 0.0
        self._say = say or (lambda text: None)
        self._signum: int | None = None
        self._saved_at = time.monotonic()
        self._saved: int | None = None
        self._handlers: dict[int, Any] = {}

    def begin(self, start: State) -> Begin | None:
        """Goes on from the newest whole checkpoint, with the rows it had.

        Args:
          start: the state before round 1.

        Returns:
          `None` if there is nothing to go on from; rows are then begun anew.
        """
        found = self.checkpoints.restore(start, self._objection)
        for remark in self.checkpoints.remarks:
            self._say(f"{remark}: not used")
        if found is None:
            if self._folder is not None:
                self._folder.keep_finished()
            return None
        progress, rows, by = found.progress, [], ""
        if self._folder is not None:
            by = self._folder.by_other_code()
            self._folder.grow()
            rows = self._cut(self._folder.rows, progress)
        self._saved = int(found.state.round)
        rounds = self._settings.num_rounds
        self._say(f"going on after round {self._saved} of {rounds}{by}")
        return Begin(found.state, rows, progress["seconds"])

    def _objection(self, progress):
        most = self._settings.num_rounds
        if progress["round"] > most:
            return f"it is of a later round than --num_rounds={most}"
        if self._folder is not None and not _marks_there(self._folder.rows, progress):
            return "metrics.jsonl is not what it was then"
        return None

    def _cut(self, rows, progress):
        return rows.cut(_marks_there(rows, progress)[0], self._has_row)

    def _is_regular(self, row):
        return row["round"] % self._settings.eval_every == 0

    def _has_row(self, row):
        return self._is_regular(row) or row["round"] == self._settings.num_rounds

    def after(self, round_: int, state: State, seconds: float) -> None:
        """To be called after each call of rounds, when its row is written.

        Raises:
          StoppedError: a signal came; the state is saved.
          InputError: the state cannot be saved.
        """
        self._seconds = seconds
        last = round_ == self._settings.num_rounds
        stop = machine.agree(self._signum is not None)
        if stop or last or machine.agree(self._due(round_)):
            self._save(round_, state, seconds)
        if stop and not last:
            self.checkpoints.seal()
            raise StoppedError(self._signum or signal.SIGTERM, round_)

    def keep(self, state: State) -> None:
        """Saves a state besides, such as the last that was finite."""
        if int(state.round):
            self._save(int(state.round), state, self._seconds)

    def _due(self, round_):
        if self._every is not None:
            return round_ % self._every == 0
        return time.monotonic() - self._saved_at > _SECONDS_BETWEEN

    def _save(self, round_, state, seconds):
        if round_ == self._saved:
            return
        progress: dict[str, Any] = {"round": round_, "seconds": seconds, "rows": None}
        if self._folder is not None:
            progress["rows"] = self._folder.rows.mark()
            # What a run with more rounds makes of them, before it saves again.
            progress["regular_rows"] = self._folder.rows.mark(self._is_regular)
        self.checkpoints.save(round_, state, progress)
        self._saved, self._saved_at = round_, time.monotonic()

    def __enter__(self) -> "Session":
        if flags.FLAGS.verbosity <= 0:
            # Orbax's threads tell at length what is told in one sentence here.
            for name in ("absl", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._handlers[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        try:
            self.checkpoints.close()
        except InputError:
            # What went wrong first is what is told.
            if error is None:
                raise

    def _on_signal(self, signum, frame):
        del frame
        if self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum
        self._say("stopping after this round; once more to stop at once")


def _marks_there(rows, progress):
    """Up to where the rows are as they were, or as a longer run has them."""
    marks = (progress["rows"], progress.get("regular_rows"))
    return [mark for mark in marks if mark and not rows.lacks(mark)]


def of_run(settings: Config, folder: results.Workdir | None) -> Session:
    """The session of a run; silent in processes that write nothing."""
    return Session(settings, folder, say=None if folder is None else _tell)


def of_floor(settings: Config, folder: results.Workdir | None) -> Session:
    """That of its local floor, which takes as long and is saved likewise.

    Args:
      settings: of the run.
      folder: the run's; `None` in processes that write nothing.
    """

    def say(text):
        _tell(f"each device alone: {text}")

    return Session(settings, None, _FLOOR, None if folder is None else say)


def forget_floor(settings: Config) -> None:
    """Once the summary has it."""
    path = os.path.join(os.path.expanduser(settings.workdir), _FLOOR)
    shutil.rmtree(path, ignore_errors=True)


def _tell(text):
    print(text, file=sys.stderr)
