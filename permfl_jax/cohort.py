"""The devices of one exchange, and the two messages between them and their teams."""

import dataclasses

import jax
import jax.numpy as jnp

from permfl_jax import placement, tree
from permfl_jax.types import Federation, Params, Placement


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cohort:
    """The devices of one exchange, at most A, in team-major order.

    Attributes:
      device: `[A]` int32 device numbers, or `None` when everyone acts. An unused place
        holds D, which `put` ignores.
      slot: `[A]` int32, which of the round's teams each belongs to.
      present: `[A]` bool, false in unused places, or `None` when all are used.
      all_teams: static; all teams act, so that `slot` is the number of the team.
      placement: static; the federation's.
    """

    device: jax.Array | None
    slot: jax.Array
    present: jax.Array | None
    all_teams: bool = dataclasses.field(default=True, metadata={"static": True})
    placement: Placement = dataclasses.field(
        default=Placement(), metadata={"static": True}
    )

    @classmethod
    def everyone(cls, federation: Federation) -> "Cohort":
        """All devices of all teams."""
        return cls(None, federation.team, None, placement=federation.placement)

    def as_one_team(self) -> "Cohort":
        """The same devices under one team, the server."""
        return dataclasses.replace(
            self, slot=jnp.zeros_like(self.slot), all_teams=False
        )

    def weights(self, device_weight: jax.Array) -> jax.Array:
        """`[D]` weights of all devices to `[A]` of these, 0 in unused places."""
        weight = self.take(device_weight)
        return weight if self.present is None else jnp.where(self.present, weight, 0)

    def mean(self, values: jax.Array) -> jax.Array:
        """Mean of `values` `[A]` over the devices that are present, `[]`.

        On several chips `[chips]`, numbers of which this is the mean: chips need not
        tell each other a loss before the round is over.
        """
        chips = placement.num_chips(self.placement)
        if chips == 1:
            return jnp.mean(values, where=self.present)
        if self.present is None:
            return values.reshape(chips, -1).mean(axis=1)
        parts = jnp.where(self.present, values, 0).reshape(chips, -1).sum(axis=1)
        return parts * chips / self.present.sum().astype(values.dtype)

    def take(self, rows: Params) -> Params:
        """The rows of these devices: leaves `[D, ...]` to `[A, ...]`."""
        if self.device is None:
            return rows

        def on_chip(rows, device):
            return tree.take(rows, self._own(rows, device))

        return self._per_chip(on_chip, 2)(rows, self.device)

    def put(self, rows: Params, new: Params) -> Params:
        """`rows` `[D, ...]` with `new` `[A, ...]` in the places of these devices."""
        if self.device is None:
            return new

        def on_chip(rows, new, device):
            return tree.put(rows, self._own(rows, device), new)

        return self._per_chip(on_chip, 3)(rows, new, self.device)

    def _own(self, rows, device):
        """Numbers of devices, counted from the first that this chip holds."""
        count = jax.tree.leaves(rows)[0].shape[0]
        return device - placement.first_on_chip(self.placement, count)

    def _per_chip(self, function, arguments):
        spec = placement.BY_DEVICE
        return placement.per_chip(self.placement, function, (spec,) * arguments, spec)

    @property
    def team_spec(self) -> jax.sharding.PartitionSpec:
        """How the round's team models lie on the mesh: drawn teams may be anywhere."""
        return placement.BY_TEAM if self.all_teams else placement.EVERYWHERE

    def own_slot(self, slot: jax.Array, num_teams: int) -> jax.Array:
        """Inside `per_chip`: `slot` counted from the first team that this chip sees."""
        if not self.all_teams:
            return slot
        return slot - placement.first_in_row(self.placement, num_teams)

    def teams_on_chip(self, num_teams: int) -> int:
        """How many of the m acting teams a chip sees: those of its row, or all."""
        rows = placement.num_rows(self.placement) if self.all_teams else 1
        return num_teams // rows

    def of_team(self, rows: Params) -> Params:
        """What each device's team has: leaves `[m, ...]` to `[A, ...]`."""
        here = self.teams_on_chip(jax.tree.leaves(rows)[0].shape[0])

        def on_chip(rows, slot):
            return tree.take(rows, self.own_slot(slot, here))

        specs = (self.team_spec, placement.BY_DEVICE)
        return placement.per_chip(self.placement, on_chip, specs, placement.BY_DEVICE)(
            rows, self.slot
        )

    def sum_over_chips(self, value: Params) -> Params:
        """Inside `per_chip`: sums over the chips with devices of the same teams."""
        axes = "device" if self.all_teams else ("team", "device")
        return placement.total(self.placement, value, axes)

    def team_mean(self, rows: Params, weight: jax.Array, num_teams: int) -> Params:
        """Weighted mean of the devices of each team: the message to the teams.

        Args:
          rows: leaves `[A, ...]`.
          weight: `[A]`, from `weights`.
          num_teams: m, the teams that act.

        Returns:
          Leaves `[m, ...]`.
        """
        here = self.teams_on_chip(num_teams)

        def on_chip(rows, weight, slot):
            own = self.own_slot(slot, here)
            return tree.segment_mean(rows, weight, own, here, self.sum_over_chips)

        specs = (placement.BY_DEVICE,) * 3
        return placement.per_chip(self.placement, on_chip, specs, self.team_spec)(
            rows, weight, self.slot
        )
