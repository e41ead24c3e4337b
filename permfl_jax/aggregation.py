"""What the server makes of the teams' models, also of teams that did not act."""

import jax
import jax.numpy as jnp

from permfl_jax import placement, tree, uploads, weighting
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation, Params
from permfl_jax.uplink import Link
from permfl_jax.uploads import Exchange, Memory, Senders


def nobody_seen(schedule: Schedule, sampler: Sampler) -> jax.Array | None:
    """`[M]` bool, which teams have taken part, before round 1; `None` if not asked."""
    all_heard = sampler.all_teams and not uploads.keeps_heard(schedule, sampler)
    if schedule.aggregate != "stale_seen" or all_heard:
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


def mean_sent(
    schedule: Schedule,
    sampler: Sampler,
    federation: Federation,
    team: Params,
    all_team: Params,
    teams: jax.Array | None,
    seen: jax.Array | None,
    exchange: Exchange,
) -> tuple[Params, jax.Array | None, Memory | None]:
    """`server_mean` of what arrives; x where nothing has.

    Args:
      schedule: weights, who counts; code and loss.
      sampler: see `server_mean`.
      federation: likewise.
      team: likewise.
      all_team: likewise.
      teams: likewise.
      seen: likewise; here, of whom the server has heard.
      exchange: its `known` is x, leaves `[...]`.

    Returns:
      Leaves `[...]`, of whom the server has heard by now, and what teams remember.
    """
    link, memory = Link.of(schedule.uplink, "team"), exchange.memory
    if link is None:
        mean, seen = server_mean(
            schedule, sampler, federation, team, all_team, teams, seen
        )
        return mean, seen, memory
    number = jnp.arange(sampler.num_teams, dtype=jnp.int32) if teams is None else teams
    arrived = uploads.arrivals(link, exchange, number)
    spec = placement.BY_TEAM if sampler.all_teams else placement.EVERYWHERE
    senders = Senders(number, arrived, federation.placement, spec)
    known = tree.stack(exchange.known, sampler.acting_teams)
    before = tree.take(memory.team, teams)
    models, own = uploads.decoded(link, exchange, senders, team, known, before)
    memory = memory._replace(team=tree.put(memory.team, teams, own))
    weight = weighting.team_weights(schedule, federation, sampler.num_teams)
    if arrived is None:
        arrived = jnp.ones(number.shape, bool)
    if memory.heard is None:
        weight = jnp.where(arrived, tree.take(weight, teams), 0)
    else:
        last = tree.where(arrived, models, tree.take(memory.heard, teams))
        models = tree.put(memory.heard, teams, last)
        memory = memory._replace(heard=models)
        if seen is not None:
            seen = seen.at[number].max(arrived)
            weight = jnp.where(seen, weight, 0)
    some = weight.sum() > 0
    mean = tree.mean(models, jnp.where(some, weight, 1))
    # Nobody's mean is no mean.
    mean = jax.tree.map(lambda w, x: jnp.where(some, w, x), mean, exchange.known)
    return mean, seen, memory
