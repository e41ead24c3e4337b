"""The experimental condition that every method is handed alike."""

import dataclasses

from permfl_jax.errors import InputError
from permfl_jax.uplink import TIERS, Uplink

BATCHINGS = ("shuffle", "cyclic")
WEIGHTS = ("uniform", "samples")
MOST = 10**7  # of anything that is counted: devices, steps, samples of a batch
AGGREGATES = ("participants", "stale", "stale_seen")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often each tier acts, on which samples, and how means are weighted.

    Everything here shapes the compiled program; numbers that do not (step sizes,
    pulls) are the `hparams` of a method instead.

    Attributes:
      team_steps: K, exchanges between a team and its devices per global round.
      device_steps: L, gradient steps of a device per exchange, one batch each.
      batch_size: B, or `None` for all samples of the device in every step.
      batching: `shuffle` draws a new order for each pass over the device's samples;
        `cyclic` keeps the stored order (the released code).
      weights: `uniform` (paper) or `samples`: by sample count, at both levels.
      aggregate: which teams the server averages when not all take part:
        `participants` of this round, `stale` (all teams, absent ones with the model
        they last had; the released code), or `stale_seen` (of those, only teams that
        have taken part at least once).
      keep_personal: store every device's model, D of them. Without, methods that do not
        need them from one round to the next show PM as adapted when it is evaluated.
      uplink: what codes and losses do to uploads; `None` where nothing does.

    Examples:
      >>> Schedule(team_steps=5, device_steps=10, batch_size=None).steps_per_round
      50
      >>> Schedule(batching='random')
      Traceback (most recent call last):
      permfl_jax.errors.InputError: --batching must be one of shuffle, cyclic; got ...
    """

    team_steps: int = 10
    device_steps: int = 20
    batch_size: int | None = 64
    batching: str = "shuffle"
    weights: str = "uniform"
    aggregate: str = "participants"
    keep_personal: bool = True
    uplink: Uplink | None = None

    def __post_init__(self):
        check_count("--team_steps", self.team_steps)
        check_count("--device_steps", self.device_steps)
        if self.batch_size is not None:
            check_count("--batch_size", self.batch_size)
        _one_of("--batching", self.batching, BATCHINGS)
        _one_of("--weights", self.weights, WEIGHTS)
        _one_of("--aggregate", self.aggregate, AGGREGATES)

    @property
    def steps_per_round(self) -> int:
        """K·L, the gradient steps of a device in a global round."""
        return self.team_steps * self.device_steps

    def require_personal(self, algorithm: str) -> None:
        """Raises `InputError` unless devices' models are kept."""
        if not self.keep_personal:
            raise InputError(
                f"--keep_personal=false leaves --algorithm={algorithm} nothing: its "
                "devices go on from models of their own."
            )

    def require_uploads(self, algorithm: str, *tiers: str) -> None:
        """Raises `InputError` if `uplink` is of other tiers than the method codes."""
        for tier in TIERS:
            given = [] if self.uplink is None else self.uplink.given(tier)
            if given and tier not in tiers:
                allowed = f"those of {' and '.join(f'{t}s' for t in tiers)}"
                raise InputError(
                    f"{given[0]} cannot be used with --algorithm={algorithm}: of its "
                    f"uploads, {allowed if tiers else 'none'} can be coded or lost."
                )


def check_count(flag: str, value: int) -> None:
    """Raises `InputError` unless `value` is 1 to `MOST`."""
    if not 1 <= value <= MOST:
        raise InputError(f"{flag} must be at least 1 and at most {MOST}, got {value}.")


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{flag} must be one of {', '.join(allowed)}; got {value!r}.")
