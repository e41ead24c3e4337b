"""The types that every floor shares.

Axis letters, used in every docstring of the package:

  D  devices of the federation, in team-major order (all of team 0, then team 1, ...)
  M  teams
  A  devices that act in one exchange, at most D
  S  samples held by all devices together
  B  samples in one batch
  C  classes
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# A model, or any pytree of arrays with the model's structure and extra leading axes.
Params = Any
# A pytree of arrays that share their leading axis: samples or the batch cut from them.
Batch = Any
# `(params, batch) -> losses [B]`, or `(params, batch, key) -> losses [B]` if random.
LossFn = Callable[..., jax.Array]
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of all devices in one pool: memory follows what is real.

    Device d holds rows `start[d] : start[d] + count[d]` of every leaf of `pool`.

    Attributes:
      pool: leaves `[S, ...]`, for instance `{'x': [S, 784], 'y': [S]}`.
        Before `placement.place`, maybe a function that loads (`from_loader`).
      start: `[D]` int32, first row of each device.
      count: `[D]` int32, rows of each device.
      max_count: the largest `count`; static, because it bounds a loop.
    """

    pool: Batch
    start: jax.Array
    count: jax.Array
    max_count: int = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Placement:
    """On which chips devices are computed, and how many at once.

    Attributes:
      mesh: chips as (`team`, `device`) axes, or `None` for one chip. The devices of the
        federation are dealt out in their order, the teams of a row of chips together.
      device_chunk: devices computed at once on each chip, or `None`: what suits the
        chip and the size of a step (`placement.devices_at_once`).
    """

    mesh: jax.sharding.Mesh | None = None
    device_chunk: int | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Federation:
    """Devices, their samples and their teams. Devices are sorted by team.

    Attributes:
      train: what devices learn from.
      validation: what choices (such as the best round) are made on.
      test: what results are reported on.
      team: `[D]` int32, non-decreasing: the team of each device.
      identity: `[D]` uint32, the device's number before it was sorted into teams.
        Random draws hang on it, so regrouping devices changes nobody's mini-batches.
      placement: static. Where there is a mesh (`placement.place`), `start` counts from
        the first row of the device's chip.
    """

    train: Samples
    validation: Samples
    test: Samples
    team: jax.Array
    identity: jax.Array
    placement: Placement = dataclasses.field(
        default=Placement(), metadata={"static": True}
    )


class State(NamedTuple):
    """What one round hands to the next, and what is evaluated.

    A tier that a method lacks is `None`, an empty pytree: it costs nothing.

    Attributes:
      round: `[]` int32, global rounds completed.
      cursor: `[D]` int32, local steps each device has taken: its place in its own
        stream of mini-batches, which continues across rounds.
      device: leaves `[D, ...]`, the personal models (PM), or `None`.
      team: leaves `[M, ...]`, the team models (TM), or `None`.
      server: leaves `[...]`, the global model (GM), or `None`.
      extra: whatever else a method carries, or `None`; what it has of every device,
        leaves `[D, ...]`, in a field `device`.
      uploads: what senders of coded or lost uploads remember (`uploads.Memory`), or
        `None`.
    """

    round: jax.Array
    cursor: jax.Array
    device: Params | None
    team: Params | None
    server: Params | None
    extra: Any = None
    uploads: Any = None


class Algorithm(NamedTuple):
    """A method: pure functions over one `State`.

    `hparams` is a pytree of numbers and is traced: another value does not recompile,
    and `jax.vmap` over it runs many settings in one program. `key` is the key of the
    run, the same in every round; draws are told apart by `state.round`, so that a run
    resumed at round t, or run several rounds to a call, draws the same numbers.

    Attributes:
      init: `(params, num_devices, num_teams) -> State`.
      round: `(key, hparams, state, federation) -> (State, Metrics)`, one global round.
        `Metrics` are diagnostics named `tier/quantity`; the next round needs none.
      personalize: `(key, hparams, state, federation, cohort) -> leaves [A, ...]`, the
        devices of a cohort adapted now from the models above them; `None` where
        `state.device` is already up to date for everyone.
    """

    init: Callable[..., State]
    round: Callable[..., tuple[State, Metrics]]
    personalize: Callable[..., Params] | None = None
