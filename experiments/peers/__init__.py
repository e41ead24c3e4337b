"""The same method as others would write it, for `experiments.benchmark` to time.

Every peer runs PerMFL's global round (full participation, uniform weights) from the
same start model, on the same samples:

    w_i <- x; K times { θ_ij <- w_i, L steps θ <- θ - α(∇f(θ) + λ(θ - w_i)), then
    w_i <- (1 - ηλ - ηγ) w_i + ηγ x + ηλ mean_j θ_ij }; x <- (1 - βγ) x + βγ mean_i w_i

`pytorch` is research code, `pytorch_lean` what a careful PyTorch user writes,
`jax_loop` one jitted call per step of a device, as in FedJAX, and `jax_scan` one per
device and exchange.
"""

import functools
import importlib
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from permfl_jax.errors import InputError


class Setting(NamedTuple):
    """What every peer is handed alike.

    Attributes:
      model: `mclr`, `dnn` or `cnn`.
      dataset: picks the CNN, as `permfl_jax.models.cnn.PLANS`.
      hidden: widths of the hidden layers of `dnn`.
      num_classes: C.
      batch_size: B, or `None` for all samples of the device in every step.
      team_steps: K.
      device_steps: L.
      device_lr: α.
      team_lr: η.
      server_lr: β.
      device_prox: λ.
      team_prox: γ.
      scale: the model sees `x * scale + offset` in float32; samples may be uint8.
      offset: see `scale`.
    """

    model: str
    dataset: str
    hidden: tuple[int, ...]
    num_classes: int
    batch_size: int | None
    team_steps: int
    device_steps: int
    device_lr: float
    team_lr: float
    server_lr: float
    device_prox: float
    team_prox: float
    scale: float
    offset: float


class Peer(NamedTuple):
    """One federation in the hands of one peer.

    Attributes:
      one_round: runs one global round and returns when it is done.
      evaluate: accuracies `PM`, `TM`, `GM`, pooled over all devices' test samples.
      server: x as arrays laid out and ordered as `jax.tree.leaves` of our parameters.
    """

    one_round: Callable[[], None]
    evaluate: Callable[[], dict[str, float]]
    server: Callable[[], list[np.ndarray]]


Device = dict[str, np.ndarray]  # {'x': [n, ...], 'y': [n]}
Build = Callable[
    [Setting, Any, Sequence[Device], Sequence[Device], Sequence[int]], Peer
]


def members(teams: Sequence[int]) -> list[list[int]]:
    """Device numbers of each team, from the team number of each device."""
    return [
        [device for device, other in enumerate(teams) if other == team]
        for team in sorted(set(teams))
    ]


def load(name: str) -> types.ModuleType:
    """Imports the peer called `name`: only some of them need PyTorch.

    Raises:
      InputError: PyTorch is needed and not installed.
    """
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            f"The peer {name} needs PyTorch, which is not installed: "
            "pip install -e .[bench]"
        ) from error


def _build(
    name: str,
    setting: Setting,
    params: Any,
    train: Sequence[Device],
    test: Sequence[Device],
    teams: Sequence[int],
) -> Peer:
    """The peer called `name`."""
    return load(name).build(setting, params, train, test, teams)


# Each takes a setting, the start model (our flax parameters), the training and the test
# samples of each device in team-major order, and the team number of each device.
PEERS: dict[str, Build] = {
    name: functools.partial(_build, name)
    for name in ("pytorch", "pytorch_lean", "jax_loop", "jax_scan")
}
