"""What a dataset hands over, and what it may be told."""

import dataclasses
import os
import pathlib
from typing import NamedTuple

import numpy as np

from permfl_jax.errors import InputError

MOST_TEXT_FEATURES = 65_536


class Examples(NamedTuple):
    """All examples of one dataset, before they are given to devices. S examples.

    Attributes:
      x: `[S, H, W, C]` uint8 pictures, `[S, F]` features (float32, or uint8 for text),
        or `[S, T]` uint8 codes of characters.
      y: `[S]` int32, class of each example, in `[0, num_classes)`.
      num_classes: C; classes that have no example count too.
      scale: the model sees `x * scale + offset`.
      offset: see `scale`.
      device: `[S]` int32, the natural owner of each example, or `None` where a
        partition has to decide.
      group: `[S]` int32, the natural team of each example (the domain that a sentence
        is about), or `None`.
    """

    x: np.ndarray
    y: np.ndarray
    num_classes: int
    scale: float
    offset: float
    device: np.ndarray | None = None
    group: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What the user may tell a dataset. Each one reads what concerns it.

    Attributes:
      seed: for datasets that are drawn rather than stored.
      num_devices: for datasets that are born in devices.
      alpha: `synthetic`: how much the devices' true models differ.
      beta: `synthetic`: how much the devices' features differ.
      data_dir: folder for prepared data; `None` is `~/.cache/permfl_jax`.
      manual_dir: folder with one folder of raw files per dataset, or `None`.
      text_features: `clinc_oos`, `banking77`: numbers that stand for a sentence.

    Raises:
      InputError: `data_dir` is no folder of this machine, or `text_features` is out of
        range.
    """

    seed: int = 0
    num_devices: int = 40
    alpha: float = 0.5
    beta: float = 0.5
    data_dir: str | None = None
    manual_dir: str | None = None
    text_features: int = 1024

    def __post_init__(self):
        if self.data_dir and "://" in self.data_dir:
            raise InputError(
                f"--data_dir={self.data_dir} must be a folder of this machine."
            )
        if not 1 <= self.text_features <= MOST_TEXT_FEATURES:
            raise InputError(
                f"--text_features must be 1 to {MOST_TEXT_FEATURES}, got "
                f"{self.text_features}."
            )

    def data_path(self) -> pathlib.Path:
        """The folder for prepared data; it need not exist yet."""
        # Unlike Path.expanduser, leaves the name of an unknown user alone.
        return pathlib.Path(os.path.expanduser(self.data_dir or "~/.cache/permfl_jax"))

    def manual_path(self, name: str) -> pathlib.Path | None:
        """The folder of the raw files of dataset `name`, if the user gave one."""
        if self.manual_dir is None:
            return None
        return pathlib.Path(os.path.expanduser(self.manual_dir)) / name
