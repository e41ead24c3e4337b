"""The state of a run on disk: the only module that knows orbax.

Orbax writes each checkpoint in the background and makes it appear at once. A seal
beside it, the SHA-256 of every file, is what makes it count: a program may be killed at
any moment and a disk may change a bit, and neither shall ever be continued from.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import hosts, leaves, seals
from permfl_jax.errors import InputError

_OVERHEAD_BYTES = 2**17  # of orbax's own files
_NONE, _REFUSED = -1, -2  # no rounds


class Restored(NamedTuple):
    """Where a run goes on.

    Attributes:
      state: as it was saved, laid out as the template.
      progress: what was saved with it.
    """

    state: Any
    progress: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      path: their folder; one folder per checkpoint in it, named by its round.
      keep: how many of the newest stay.
      remarks: sentences on those that could not be used.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 2):
        """Of a folder that may not exist yet; nothing is read or written.

        Args:
          path: the folder.
          keep: at least 2, since the newest does not count before its seal.

        Raises:
          InputError: `keep` < 2.
        """
        if keep < 2:
            raise InputError(f"--keep must be at least 2, got {keep}.")
        self.path = pathlib.Path(path).absolute()
        self.keep = keep
        self.remarks: list[str] = []
        self._manager: Any = None
        self._unsealed: int | None = None

    def save(self, round_: int, state: Any, progress: dict[str, Any]) -> None:
        """Begins to write; the round's checkpoint counts after the next `seal`.

        Args:
          round_: global rounds completed; more than at the last save.
          state: any pytree of arrays; may be given away after this call.
          progress: what else to remember, as JSON.

        Raises:
          InputError: this or the last save could not be written.
        """
        self.seal()
        self._check_space(round_, state)
        import orbax.checkpoint as ocp  # slow to import, and only needed here

        # A copy: what is written in the background, the next round overwrites.
        rows = jax.tree.map(jnp.copy, leaves.numbered(state))
        meta = leaves.note(state, progress)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(rows), meta=ocp.args.JsonSave(meta)
        )
        try:
            self._writer().save(round_, args=args, force=True)
        except Exception as error:  # orbax and TensorStore raise what they like
            raise self._unwritable(round_, error) from error
        self._unsealed = round_

    def seal(self) -> None:
        """Waits for the save under way, if any, and makes it count.

        Raises:
          InputError: it could not be written.
        """
        if self._unsealed is None:
            return
        round_, self._unsealed = self._unsealed, None
        folder = self.path / str(round_)
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if jax.process_index() == 0:
                seals.write(folder)
        except Exception as error:  # as above
            raise self._unwritable(round_, error) from error

    def close(self) -> None:
        """Seals what is under way and stops orbax's threads."""
        try:
            self.seal()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Stops orbax's threads; what is under way does not count."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            manager.close()

    def restore(
        self, template: Any, accept: Callable[[dict[str, Any]], str | None]
    ) -> Restored | None:
        """The newest checkpoint that is whole.

        One that was not finished is removed, a damaged one is called `damaged-ROUND`
        from then on. A whole one is never passed over. Of several processes the first
        chooses.

        Args:
          template: a pytree of arrays as the state is to be: structure, shapes, dtypes
            and on which chips.
          accept: given `progress`, says why not this one, or `None`.

        Returns:
          `None` if there is none.

        Raises:
          InputError: one is whole, but is not to be gone on from, or is not loaded.
        """
        first = jax.process_index() == 0
        refused = None
        round_ = _NONE
        if first:
            try:
                round_ = self._choose(template, accept)
            except InputError as error:
                refused, round_ = error, _REFUSED
        round_ = hosts.of_first(round_)
        if round_ == _REFUSED:
            raise refused or InputError("the first process refused a checkpoint.")
        if round_ == _NONE:
            return None
        try:
            return self._restored(round_, template)
        except Exception as error:  # orbax and TensorStore raise what they like
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise
            reason = f"it cannot be loaded ({type(error).__name__})"
            raise self._left_alone(round_, reason) from error

    def _choose(self, template, accept):
        """The round of the newest that is whole; cleans up behind a kill."""
        for unfinished in self.path.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        for round_ in self.rounds():
            folder = self.path / str(round_)
            fault = seals.broken(folder)
            if fault is None:
                reason = leaves.objection(folder, template, accept)
                if reason is not None:
                    raise self._left_alone(round_, reason)
                return round_
            self.remarks.append(f"the checkpoint of round {round_} {fault}")
            if fault != seals.UNFINISHED:
                aside = self.path / f"damaged-{round_}"
                shutil.rmtree(aside, ignore_errors=True)
                with contextlib.suppress(OSError):
                    folder.rename(aside)
            shutil.rmtree(folder, ignore_errors=True)
        return _NONE

    def _left_alone(self, round_, reason):
        return InputError(
            f"{self.path / str(round_)} is a whole checkpoint, but {reason}; nothing "
            f"was changed. Put that right, or delete {self.path} to start over."
        )

    def rounds(self) -> list[int]:
        """Rounds of which there is a folder, newest first, whole or not."""
        if not self.path.is_dir():
            return []
        names = [p.name for p in self.path.iterdir() if p.is_dir()]
        return sorted(int(n) for n in names if n.isascii() and n.isdigit())[::-1]

    def _restored(self, round_, template):
        rows = self._read(round_, leaves.numbered(template))
        structure = jax.tree.structure(template)
        state = jax.tree.unflatten(structure, [rows[key] for key in sorted(rows)])
        return Restored(state, leaves.read_note(self.path / str(round_))["progress"])

    def _read(self, round_, like):
        import orbax.checkpoint as ocp

        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        rows = self._writer().restore(round_, args=args)["state"]
        on_mesh = len(jax.tree.leaves(like)[0].sharding.device_set) > 1
        # Pinned to one chip by orbax, rows would not meet others that are not.
        return (
            rows if on_mesh else jax.tree.map(lambda x: jnp.asarray(np.array(x)), rows)
        )

    def _writer(self):
        import orbax.checkpoint as ocp

        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self.keep, enable_async_checkpointing=True, create=True
            )
            self._manager = ocp.CheckpointManager(self.path, options=options)
        return self._manager

    def _check_space(self, round_, state):
        """Before orbax, which waits for minutes, or fails at length in threads."""
        if jax.process_index():  # one tries the folder for all, which share it
            return
        try:
            (self.path / str(round_)).mkdir(parents=True)
            (self.path / str(round_)).rmdir()
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise self._unwritable(round_, error) from error
        needed = _OVERHEAD_BYTES + sum(x.nbytes for x in jax.tree.leaves(state))
        if free < needed:
            text = f"{free} bytes are free, {needed} needed: the disk is full"
            raise self._unwritable(round_, text)

    def _unwritable(self, round_, error):
        text = " ".join(str(error).split())
        # TensorStore's words, with paths and hashes.
        text = "the disk is full" if "RESOURCE_EXHAUSTED" in text else text[:200]
        return InputError(
            f"the checkpoint of round {round_} cannot be written to {self.path} "
            f"({text}); those before it are kept."
        )


def read(path: str | os.PathLike[str]) -> tuple[int, dict[str, np.ndarray]]:
    """The newest whole checkpoint of a folder, without knowing the method.

    Args:
      path: the folder of `Checkpoints`.

    Returns:
      Its round, and the arrays of the state by name, such as `device/bias`.

    Raises:
      InputError: there is none.
    """
    kept = Checkpoints(path)
    for round_ in kept.rounds():
        folder = kept.path / str(round_)
        if seals.broken(folder) is None:
            try:
                return round_, _arrays(kept, round_)
            except Exception as error:  # orbax and TensorStore raise what they like
                kept.remarks.append(f"round {round_}: {type(error).__name__}")
            finally:
                kept.abandon()
    raise InputError(f"{kept.path} holds no whole checkpoint.")


def _arrays(kept, round_):
    """All arrays of one checkpoint, by name."""
    found = leaves.read_note(kept.path / str(round_))["leaves"]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        leaves.key(number): jax.ShapeDtypeStruct(shape, dtype, sharding=here)
        for number, (_, shape, dtype) in enumerate(found)
    }
    rows = kept._read(round_, like)
    return {
        str(name): np.asarray(rows[leaves.key(number)])
        for number, (name, _, _) in enumerate(found)
    }
