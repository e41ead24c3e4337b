"""Uploads of one exchange: which arrive, what is read of them, what senders remember.

Whoever receives averages what arrives; if nothing does, it keeps the model it has. A
sender whose upload is lost gets no receipt and leaves its memory as it was, as if it
had been absent: the mean of those that arrive stands for it already, and its difference
is from a model that has moved by the next exchange. Sent once more on top of the next
one, everybody's way would count 1 / (1 - loss) times.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import keys, local, placement, tree
from permfl_jax.cohort import Cohort
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Federation, Params, Placement, State
from permfl_jax.uplink import TIERS, Link, coded


class Memory(NamedTuple):
    """What `State.uploads` holds; a field that is not needed is `None`.

    Attributes:
      device: what codes have left out of devices' uploads, leaves `[D, ...]`.
      team: likewise of teams' uploads, leaves `[M, ...]`.
      heard: teams' models as the server last heard of them, leaves `[M, ...]`, where it
        averages absent teams too.
    """

    device: Params | None
    team: Params | None
    heard: Params | None


class Exchange(NamedTuple):
    """What uploads hang on, beside the models that are sent.

    Attributes:
      key: of the run.
      round: `[]` int32, t.
      number: `[]` int32, of the exchange in its round.
      known: what receivers have: leaves `[m, ...]`, or `[...]` of the server.
      memory: `Memory` from `State.uploads`, or what the last exchange returned.
    """

    key: jax.Array
    round: jax.Array
    number: jax.Array | int
    known: Params
    memory: Any


class Senders(NamedTuple):
    """Those who send in one exchange.

    Attributes:
      number: `[A]`, on which their draws hang.
      arrived: `[A]` bool, from `arrivals`.
      placement: the federation's.
      spec: how they lie on it.
    """

    number: jax.Array
    arrived: jax.Array | None
    placement: Placement
    spec: jax.sharding.PartitionSpec


def with_memory(
    state: State, schedule: Schedule, sampler: Sampler, params: Params
) -> State:
    """A state before round 1, with what senders remember by then.

    Args:
      state: of a method that can send coded uploads.
      schedule: tells whether it does.
      sampler: who takes part.
      params: the initial model, leaves `[...]`.
    """
    device, team = (Link.of(schedule.uplink, tier) for tier in TIERS)
    if device is None and team is None:
        return state
    zero = jax.tree.map(jnp.zeros_like, params)

    def rows(model, count, wanted):
        return tree.stack(model, count) if wanted else None

    return state._replace(
        uploads=Memory(
            rows(zero, len(state.cursor), device is not None and device.remembers),
            rows(zero, sampler.num_teams, team is not None and team.remembers),
            rows(params, sampler.num_teams, keeps_heard(schedule, sampler)),
        )
    )


def keeps_heard(schedule: Schedule, sampler: Sampler) -> bool:
    """The server needs its own copy of teams' models: some are absent, or lost."""
    link = Link.of(schedule.uplink, "team")
    if link is None or schedule.aggregate == "participants":
        return False
    return link.loss > 0 or not sampler.all_teams


def arrivals(link: Link, exchange: Exchange, number: jax.Array) -> jax.Array | None:
    """`[A]` bool, whose uploads arrive; `None` where all do.

    Args:
      link: gives the loss.
      exchange: gives the draws.
      number: `[A]`, of the senders.
    """
    if not link.loss:
        return None
    key = _key(link, exchange)

    def arrives(number):
        lot, _ = _own_keys(key, number)
        # Below 1, so that a loss of 1 loses all.
        return jax.random.uniform(lot, dtype=jnp.float32) >= link.loss

    return jax.vmap(arrives)(number)


def decoded(
    link: Link,
    exchange: Exchange,
    senders: Senders,
    rows: Params,
    known: Params,
    memory: Params | None,
) -> tuple[Params, Params | None]:
    """What is read of uploads, also of lost ones, and what their senders remember.

    Args:
      link: gives the code.
      exchange: gives the draws.
      senders: who they are.
      rows: what is sent, leaves `[A, ...]`.
      known: what the receiver of each has, leaves `[A, ...]`.
      memory: of the senders, leaves `[A, ...]`, or `None`.
    """
    code = link.code
    if code is None:
        return rows, memory

    def one(key, number, arrived, row, known, memory):
        _, rounding = _own_keys(key, number)
        difference = jax.tree.map(jnp.subtract, row, known)
        sent, left = coded(code, rounding, difference, memory)
        if arrived is not None:
            left = jax.tree.map(lambda x, y: jnp.where(arrived, x, y), left, memory)
        return jax.tree.map(jnp.add, known, sent), left

    on_chip = jax.vmap(one, (None, 0, 0, 0, 0, 0))
    spec = senders.spec
    specs = (placement.EVERYWHERE, *[spec] * 5)
    return placement.per_chip(senders.placement, on_chip, specs, spec)(
        _key(link, exchange), senders.number, senders.arrived, rows, known, memory
    )


def _key(link, exchange):
    key = keys.upload_key(exchange.key, exchange.round)
    key = jax.random.fold_in(key, TIERS.index(link.tier))
    return jax.random.fold_in(key, exchange.number)


def _own_keys(key, number):
    """Of ONE sender: for its lot, and for its code."""
    return jax.random.split(jax.random.fold_in(key, number))


def team_mean(
    schedule: Schedule,
    federation: Federation,
    cohort: Cohort,
    rows: Params,
    weight: jax.Array,
    num_teams: int,
    exchange: Exchange,
) -> tuple[Params, Memory | None]:
    """`cohort.team_mean` of what arrives.

    Args:
      schedule: code and loss.
      federation: whose devices these are.
      cohort: which of them send.
      rows: what they send, leaves `[A, ...]`.
      weight: `[A]`, from `cohort.weights`.
      num_teams: m, the teams that act.
      exchange: its `known` has leaves `[m, ...]`.

    Returns:
      Leaves `[m, ...]`, and what senders remember.
    """
    link, memory = Link.of(schedule.uplink, "device"), exchange.memory
    if link is None:
        return cohort.team_mean(rows, weight, num_teams), memory
    number = cohort.take(federation.identity)
    arrived = arrivals(link, exchange, number)
    senders = Senders(number, arrived, cohort.placement, placement.BY_DEVICE)
    known = cohort.of_team(exchange.known) if link.code else None
    before = memory.device if memory.device is None else cohort.take(memory.device)
    models, own = decoded(link, exchange, senders, rows, known, before)
    if own is not None:
        memory = memory._replace(device=cohort.put(memory.device, own))
    weight = _of_arrived(weight, arrived)
    mean = cohort.team_mean(models, weight, num_teams)
    mean = _or_known(link, cohort, weight, mean, exchange.known)
    return mean, memory


def train_mean(
    steps: Steps,
    cohort: Cohort,
    cursor: jax.Array,
    start: Params | Shared,
    anchor: Params | Shared | None,
    weight: jax.Array,
    num_teams: int,
    exchange: Exchange,
) -> tuple[Params, Params, jax.Array, Memory | None]:
    """`local.train_mean` of what arrives, and what senders remember.

    Coded, the models of all who act exist at once, as what they remember does.

    Args:
      steps: see `local.train_mean`.
      cohort: likewise.
      cursor: likewise.
      start: likewise.
      anchor: likewise.
      weight: likewise.
      num_teams: likewise.
      exchange: its `known` has leaves `[m, ...]`.
    """
    link = Link.of(steps.schedule.uplink, "device")
    if link is not None and link.code is not None:
        theta, loss = local.train(steps, cohort, cursor, start, anchor)
        sent, kept = steps.end(theta)
        mean, memory = team_mean(
            steps.schedule, steps.federation, cohort, sent, weight, num_teams, exchange
        )
        return mean, kept, loss, memory
    if link is not None:
        number = cohort.take(steps.federation.identity)
        weight = _of_arrived(weight, arrivals(link, exchange, number))
    mean, kept, loss = local.train_mean(
        steps, cohort, cursor, start, anchor, weight, num_teams
    )
    if link is not None:
        mean = _or_known(link, cohort, weight, mean, exchange.known)
    return mean, kept, loss, exchange.memory


def _of_arrived(weight, arrived):
    return weight if arrived is None else jnp.where(arrived, weight, 0)


def _or_known(link, cohort, weight, mean, known):
    """Means `[m, ...]`, or what teams have where nothing arrived."""
    if not link.loss:
        return mean
    num_teams = jax.tree.leaves(known)[0].shape[0]
    some = cohort.team_mean(jnp.ones_like(weight), weight, num_teams) > 0
    return tree.where(some, mean, known)
