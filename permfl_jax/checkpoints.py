"""The state of a run on disk: the only module that knows orbax.

Orbax writes each checkpoint in the background and makes it appear at once. A seal
beside it, the SHA-256 of every file, is what makes it count: a program may be killed at
any moment and a disk may change a bit, and neither shall ever be continued from.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import plain_files, seals
from permfl_jax.errors import InputError

_FORMAT = 1
_MOST_META = 2**28  # bytes
_OVERHEAD_BYTES = 2**17  # of orbax's own files


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
        rows = jax.tree.map(jnp.copy, _numbered(state))
        meta = {"format": _FORMAT, "leaves": _shapes(state), "progress": progress}
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
        """The newest checkpoint that is whole; those that are not are removed.

        Args:
          template: a pytree of arrays as the state is to be: structure, shapes, dtypes
            and on which chips.
          accept: given `progress`, says why not this one, or `None`.

        Returns:
          `None` if there is none.
        """
        if jax.process_index() == 0:
            for unfinished in self.path.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        for round_ in self.rounds():
            folder = self.path / str(round_)
            reason = _fault(folder, template, accept)
            if reason is None:
                try:
                    return self._restored(round_, template)
                except Exception as error:  # orbax and TensorStore raise what they like
                    reason = f"cannot be read ({type(error).__name__})"
            self.remarks.append(f"the checkpoint of round {round_} {reason}")
            self.abandon()
            if jax.process_index() == 0:
                shutil.rmtree(folder, ignore_errors=True)
        return None

    def rounds(self) -> list[int]:
        """Rounds of which there is a folder, newest first, whole or not."""
        if not self.path.is_dir():
            return []
        names = [p.name for p in self.path.iterdir() if p.is_dir()]
        return sorted(int(n) for n in names if n.isascii() and n.isdigit())[::-1]

    def remove_all(self) -> None:
        """For a run that starts over."""
        if jax.process_index() == 0:
            shutil.rmtree(self.path, ignore_errors=True)

    def _restored(self, round_, template):
        rows = self._read(round_, _numbered(template))
        leaves = [rows[key] for key in sorted(rows)]
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return Restored(state, _meta(self.path / str(round_))["progress"])

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
    leaves = _meta(kept.path / str(round_))["leaves"]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        _key(number): jax.ShapeDtypeStruct(shape, dtype, sharding=here)
        for number, (_, shape, dtype) in enumerate(leaves)
    }
    rows = kept._read(round_, like)
    return {
        str(name): np.asarray(rows[_key(number)])
        for number, (name, _, _) in enumerate(leaves)
    }


def _key(number):
    return f"{number:04d}"


def _numbered(state):
    """Leaves by number, for orbax, so that any name may be theirs."""
    return {_key(i): x for i, x in enumerate(jax.tree.leaves(state))}


def _shapes(state):
    """Name, shape and dtype of every leaf, as JSON gives them back."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [
        [
            jax.tree_util.keystr(path, simple=True, separator="/"),
            list(x.shape),
            str(x.dtype),
        ]
        for path, x in leaves
    ]


def _fault(folder, template, accept):
    """Why a checkpoint cannot be used, or `None`."""
    try:
        fault = seals.broken(folder)
        if fault is not None:
            return fault
        meta = _meta(folder)
        if meta["format"] != _FORMAT or meta["leaves"] != _shapes(template):
            return "is of another model or version"
        return accept(meta["progress"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "cannot be read"


def _meta(folder):
    path = folder / "meta" / "metadata"
    return json.loads(plain_files.read_bytes(path, _MOST_META))
