"""Models sent in one global round: what a method costs its networks."""

from typing import Any, NamedTuple

from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Params
from permfl_jax.uplink import Uplink, upload_bytes


class Traffic(NamedTuple):
    """Most models sent per global round; times the bytes of a model for bytes.

    Attributes:
      device_up: by devices.
      device_down: to devices.
      team_up: by teams to the server.
      team_down: by the server to teams.
    """

    device_up: float
    device_down: float
    team_up: float
    team_down: float

    def times(self, number: float) -> "Traffic":
        """So many models instead of each."""
        return Traffic(*(number * models for models in self))


def none(hparams: object, schedule: Schedule, sampler: Sampler) -> Traffic:
    """Nothing is sent."""
    del hparams, schedule, sampler
    return Traffic(0, 0, 0, 0)


def two_tier(hparams: object, schedule: Schedule, sampler: Sampler) -> Traffic:
    """Devices and server exchange one model each way, once a round."""
    del hparams, schedule
    return Traffic(sampler.places, sampler.places, 0, 0)


def three_tier(hparams: object, schedule: Schedule, sampler: Sampler) -> Traffic:
    """K times between devices and team, once between team and server.

    With everyone present, `2·K·ΣN_i` and `2·M` transfers (PerMFL, Algorithm 1).

    Examples:
      >>> three_tier(None, Schedule(team_steps=3), Sampler((2, 5)))
      Traffic(device_up=21, device_down=21, team_up=2, team_down=2)
    """
    del hparams
    devices = schedule.team_steps * sampler.places
    teams = sampler.acting_teams
    return Traffic(devices, devices, teams, teams)


def three_tier_read(hparams: object, schedule: Schedule, sampler: Sampler) -> Traffic:
    """As `three_tier`, and once a round a gradient from each device to its team."""
    sent = three_tier(hparams, schedule, sampler)
    read = reading(hparams, schedule, sampler)
    return sent._replace(device_up=sent.device_up + read.device_up)


def reading(hparams: object, schedule: Schedule, sampler: Sampler) -> Traffic:
    """A gradient from each device, once a round."""
    del hparams, schedule
    return Traffic(sampler.places, 0, 0, 0)


def in_bytes(
    sent: Traffic, whole: Traffic, uplink: Uplink | None, model: Params
) -> Traffic:
    """Bytes of so many models, those that go up coded. What is lost was sent too.

    Args:
      sent: models.
      whole: those of them that are never coded.
      uplink: the codes, or `None`.
      model: arrays, or their shapes and dtypes.

    Examples:
      Of 10 numbers, 3 go up with their places; 40 bytes come down.

      >>> import jax.numpy as jnp
      >>> from permfl_jax.uplink import Code
      >>> uplink = Uplink(device=Code('topk', 0.3))
      >>> model, nothing = jnp.zeros(10, 'float32'), Traffic(0, 0, 0, 0)
      >>> in_bytes(Traffic(1, 1, 0, 0), nothing, uplink, model)
      Traffic(device_up=24, device_down=40, team_up=0, team_down=0)
    """
    size = upload_bytes(None, model)
    device, team = (None, None) if uplink is None else (uplink.device, uplink.team)

    def up(sent, whole, code):
        return whole * size + (sent - whole) * upload_bytes(code, model)

    return Traffic(
        device_up=up(sent.device_up, whole.device_up, device),
        device_down=sent.device_down * size,
        team_up=up(sent.team_up, whole.team_up, team),
        team_down=sent.team_down * size,
    )


def by_coins(hparams: Any, schedule: Schedule, sampler: Sampler) -> Traffic:
    """In the mean: up and down in each of K·L iterations where coins say so (AL2GD).

    All meet with a probability of p₀, else a team meets with p_j.
    """
    all_meet = hparams.all_probability
    any_meet = all_meet + (1 - all_meet) * hparams.team_probability
    devices = schedule.steps_per_round * any_meet * sampler.places
    teams = schedule.steps_per_round * all_meet * sampler.acting_teams
    return Traffic(devices, devices, teams, teams)
