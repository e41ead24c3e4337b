"""What the server makes of the teams' models, also of teams that did not act."""

import jax
import jax.numpy as jnp

from permfl_jax import tree, weighting
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation, Params


def nobody_seen(schedule: Schedule, sampler: Sampler) -> jax.Array | None:
    """`[M]` bool, which teams have taken part, before round 1; `None` if not asked."""
    if schedule.aggregate != "stale_seen" or sampler.all_teams:
        return None
    return jnp.zeros(sampler.num_teams, bool)


def server_mean(
    schedule: Schedule,
    sampler: Sampler,
    federation: Federation,
    team: Params,
    all_team: Params,
    teams: jax.Array | None,
    seen: jax.Array | None,
) -> tuple[Params, jax.Array | None]:
    """Mean of the team models that count, by `schedule.aggregate`.

    Args:
      schedule: weights, and who counts.
      sampler: how many teams there are.
      federation: the data.
      team: of the teams that acted, leaves `[m, ...]`.
      all_team: of all, absent ones as they last were, leaves `[M, ...]`.
      teams: `[m]`, those that acted, or `None` for all.
      seen: from `nobody_seen`, or what this returned in the round before.

    Returns:
      Leaves `[...]`, and which teams have taken part by now.
    """
    weight = weighting.team_weights(schedule, federation, sampler.num_teams)
    if teams is None or schedule.aggregate == "participants":
        return tree.mean(team, tree.take(weight, teams)), seen
    if seen is not None:
        seen = seen.at[teams].set(True)
        weight = jnp.where(seen, weight, 0)
    return tree.mean(all_team, weight), seen
