"""Who acts: m of M teams in a global round, n devices of each in a team round.

Draws are index sets of fixed size. Participants are gathered, computed and written
back, so the cost of a round follows participation and absentees keep their bits.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import keys, placement
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.federation import team_sizes
from permfl_jax.types import Federation


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws teams and devices without replacement, every subset equally likely.

    Teams smaller than `devices_per_round` take part whole.

    Attributes:
      team_sizes: devices of each team, length M.
      teams_per_round: m, or `None` for all.
      devices_per_round: n of each team, or `None` for all.

    Raises:
      InputError: a count below 1, or above what there is.

    Examples:
      Two of three teams act, and two devices of each; the smallest has only one.

      >>> sampler = Sampler((1, 4, 5), teams_per_round=2, devices_per_round=2)
      >>> sampler.places, sampler.full
      (4, False)
      >>> sampler.draw_teams(jax.random.key(0)).shape
      (2,)
    """

    team_sizes: tuple[int, ...]
    teams_per_round: int | None = None
    devices_per_round: int | None = None

    @classmethod
    def of(
        cls,
        federation: Federation,
        teams_per_round: int | None = None,
        devices_per_round: int | None = None,
    ) -> "Sampler":
        """A sampler with the team sizes of `federation`; on the host."""
        return cls(team_sizes(federation), teams_per_round, devices_per_round)

    def __post_init__(self):
        _check("--teams_per_round", self.teams_per_round, self.num_teams, "teams")
        largest = max(self.team_sizes)
        _check(
            "--devices_per_round", self.devices_per_round, largest, "devices in a team"
        )

    @property
    def num_teams(self) -> int:
        """M."""
        return len(self.team_sizes)

    @property
    def acting_teams(self) -> int:
        """m."""
        return self.teams_per_round or self.num_teams

    @property
    def all_teams(self) -> bool:
        """Every team takes part in every round."""
        return self.acting_teams == self.num_teams

    @property
    def full(self) -> bool:
        """Everyone takes part in everything."""
        return self.all_teams and self._quotas() == self.team_sizes

    @property
    def places(self) -> int:
        """A: the most devices that `acting_teams` teams can send."""
        return sum(sorted(self._quotas())[-self.acting_teams :])

    def places_on(self, chips: int) -> int:
        """The most devices that act on one of `chips` chips; `places` on one.

        A chip holds the next D / chips devices. How many of a team's devices are drawn
        from a chip is up to chance, so all of them have a place there.
        """
        team = np.repeat(np.arange(self.num_teams), self.team_sizes)
        most = 0
        for share in team.reshape(chips, -1):
            held = np.minimum(
                np.bincount(share, minlength=self.num_teams), self._quotas()
            )
            most = max(most, int(np.sort(held)[-self.acting_teams :].sum()))
        return most

    def _quotas(self) -> tuple[int, ...]:
        if self.devices_per_round is None:
            return self.team_sizes
        quotas = np.minimum(self.team_sizes, self.devices_per_round)
        return tuple(quotas.tolist())

    def draw_teams(self, key: jax.Array) -> jax.Array | None:
        """`[m]` int32 team numbers, ascending; `None` for all teams.

        Args:
          key: `keys.participation_key(run key, t)`.
        """
        if self.all_teams:
            return None
        lots = _lots(keys.fold_each(key, jnp.arange(self.num_teams)))
        return jnp.sort(jnp.argsort(lots)[: self.acting_teams]).astype(jnp.int32)

    def draw_devices(
        self,
        key: jax.Array,
        team_round: jax.Array,
        teams: jax.Array | None,
        federation: Federation,
    ) -> Cohort:
        """The devices of team round k.

        Args:
          key: `keys.participation_key(run key, t)`.
          team_round: `[]` int32, k.
          teams: what `draw_teams` returned.
          federation: for the team and identity of each device.

        Raises:
          InputError: the federation has another number of devices.
        """
        if sum(self.team_sizes) != federation.team.shape[0]:
            raise InputError(
                f"the Sampler was made for {sum(self.team_sizes)} devices, but the "
                f"federation has {federation.team.shape[0]}: use "
                "Sampler.of(federation)."
            )
        if self.full:
            return Cohort.everyone(federation)
        num_devices = federation.team.shape[0]
        chosen = self._rank(key, team_round, federation) < min(
            self.devices_per_round or num_devices, num_devices
        )
        if teams is not None:
            acts = jnp.zeros(self.num_teams, bool).at[teams].set(True)
            chosen &= acts[federation.team]
        chips = placement.num_chips(federation.placement)
        device = _numbers(chosen.reshape(chips, -1), self.places_on(chips))
        return _cohort(device, teams, federation)

    def _rank(self, key, team_round, federation):
        """`[D]` int32: each device's place in its team's draw for this exchange."""
        lots = device_lots(key, team_round, federation)
        order = jnp.lexsort((lots, federation.team))
        offsets = jnp.asarray(_offsets(self.team_sizes), jnp.int32)
        # Devices are sorted by team, so sorting by (team, lot) keeps teams in place.
        place = jnp.arange(lots.shape[0], dtype=jnp.int32) - offsets[federation.team]
        return jnp.zeros_like(place).at[order].set(place)


def device_lots(
    key: jax.Array, team_round: jax.Array, federation: Federation
) -> jax.Array:
    """`[D]` uint32 lots, keyed by (seed, t, i, k) and the device; smallest act."""
    team_keys = keys.fold_each(key, federation.team)
    exchange = jax.vmap(jax.random.fold_in, in_axes=(0, None))(team_keys, team_round)
    return _lots(jax.vmap(jax.random.fold_in)(exchange, federation.identity))


def _lots(key_per_row):
    return jax.vmap(lambda k: jax.random.bits(k, (), jnp.uint32))(key_per_row)


def _numbers(chosen, places):
    """`[chips, D / chips]` bool to `[chips · places]` device numbers, D if unused."""
    chips, held = chosen.shape
    (index,) = jax.vmap(lambda row: jnp.nonzero(row, size=places, fill_value=held))(
        chosen
    )
    first = held * jnp.arange(chips)[:, None]
    device = jnp.where(index < held, index + first, chips * held)
    return device.reshape(-1).astype(jnp.int32)


def _cohort(device, teams, federation):
    present = device < federation.team.shape[0]
    cohort = Cohort(device, device, present, teams is None, federation.placement)
    slot = cohort.take(federation.team)
    if teams is not None:
        # An unused place may look up a team that was not drawn; any slot will do,
        # since its weight is 0.
        slot = jnp.searchsorted(teams, slot).astype(jnp.int32)
        slot = jnp.minimum(slot, teams.shape[0] - 1)
    return dataclasses.replace(cohort, slot=slot)


def _offsets(sizes):
    total, offsets = 0, []
    for size in sizes:
        offsets.append(total)
        total += size
    return offsets


def _check(flag: str, count: int | None, available: int, what: str) -> None:
    if count is not None and not 1 <= count <= available:
        raise InputError(f"{flag} must be 1 to {available} ({what}), got {count}.")
