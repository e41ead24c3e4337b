"""PerMFL-auto: PerMFL whose λ, γ, η and β choose themselves while it trains.

    λ_ij = h τ_ij²/σ_d²    γ_i = h τ_i²/σ_t²    β: until successive rounds disagree

Where PerMFL's pulls come from an analyst and a grid, here they are what makes θ and w
the best linear estimates in a random-effects model: σ_t² is how far teams are apart,
σ_d² devices of a team, τ² what few samples add. They are read once a round, from one
mini-batch of every device that acts, at x and at the device's own model, or at its
team's where devices keep none (`spreads`); smoothed over rounds; and turned into the
numbers of Algorithm 1 for loops as short as they are (`pulls`). What is derived, and
what was measured: docs/permfl_auto.md. Evaluated: PM = θ, TM = w, GM = x.

β moves x by `reach`, in units of the whole way to where the teams want it. A round with
more than half of its direction in common with the one before raises it; one that turns
back has overshot and lowers it; it stays at g = βγ = 1, plain averaging, or above. If
the loss at x then is higher than it ever was, x goes back to plain averaging. η goes by
the same rule, judged by the last two steps of w in a round: a + b is 1 to 1.9.

While the directions of x still agree, x is no prior for the teams and the pull to it is
weaker than γ*: teams then learn for it as in h-SGD.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import aggregation, keys, pulls, spreads, tree, weighting
from permfl_jax import hparams as checks
from permfl_jax import reach as reaching
from permfl_jax.algorithms import permfl as given
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.local import Shared
from permfl_jax.participation import Sampler
from permfl_jax.reach import Reach
from permfl_jax.schedule import Schedule
from permfl_jax.spreads import Spreads
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State
from permfl_jax.uploads import Exchange

# What teams go at least while x is on its way, of the way to their devices' optimum.
_TRAVELLING = 0.95


class Numbers(NamedTuple):
    """What `Algorithm.round` takes.

    Attributes:
      given: the numbers of PerMFL; α is always used, the others if nothing adapts.
      adapt: above 0 to adapt.
      alike: 0 for a λ by each device's samples, 1 for one λ.
      memory: weight of the rounds before in what was read.
    """

    given: given.Gains
    adapt: jax.Array
    alike: jax.Array
    memory: jax.Array


class Learned(NamedTuple):
    """What `State.extra` holds; no field has a row for a device or a team.

    Attributes:
      spreads: weighted sums over the rounds so far.
      weight: `[]`, sum of their weights.
      reach: of x.
      relaxation: `[]`, a + b; 1 makes w a mean of devices and server.
      seen: `[M]` bool, which teams have taken part, or `None`; see `aggregation`.
    """

    spreads: Spreads
    weight: jax.Array
    reach: Reach
    relaxation: jax.Array
    seen: jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters; only α has to suit the data.

    Attributes:
      device_lr: α.
      adapt: 0 switches adaptation off: PerMFL with the last four numbers.
      alike: 1 gives all devices one λ, 0 each its own by its samples, or between.
      memory: weight of the rounds before in what was read.
      team_lr: η, if nothing adapts.
      server_lr: β, likewise.
      device_prox: λ, likewise.
      team_prox: γ, likewise.
    """

    device_lr: float = 0.01
    adapt: float = 1.0
    alike: float = 0.0
    memory: float = 0.7
    team_lr: float = 0.03
    server_lr: float = 0.6
    device_prox: float = 0.5
    team_prox: float = 1.5

    def __post_init__(self):
        self._given()  # checks its numbers
        checks.require("adapt", self.adapt)
        checks.require("alike", self.alike, most=1)
        checks.require("memory", self.memory, below=1)

    def _given(self):
        names = ("device_lr", "team_lr", "server_lr", "device_prox", "team_prox")
        return given.HParams(**{name: getattr(self, name) for name in names})

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        own = (self.adapt, self.alike, self.memory)
        return Numbers(self._given().traced(), *(jnp.asarray(x, float) for x in own))


def permfl_auto(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """PerMFL that measures its pulls. A round costs about six gradients more.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights, which teams the server averages.
      sampler: who takes part.

    Raises:
      InputError: mini-batches of one sample, which do not tell how samples differ.
    """
    if schedule.batch_size == 1:
        raise InputError(
            "--algorithm=permfl_auto reads how the samples of a mini-batch differ, so "
            "that --batch_size must be 2 or more; got 1."
        )
    inner = given.PerMFL(loss_fn, schedule, sampler)
    method = _PerMFLAuto(inner, loss_fn, schedule, sampler)
    current = sampler.full and schedule.keep_personal
    return Algorithm(method.init, method.round, None if current else method.personalize)


class _PerMFLAuto(NamedTuple):
    """The constants of one PerMFL-auto; `Algorithm` holds its methods."""

    inner: given.PerMFL
    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        state = self.inner.init(params, num_devices, num_teams)
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        learned = Learned(
            spreads=Spreads(*[zero] * len(Spreads._fields)),
            weight=zero,
            reach=reaching.begin(params),
            relaxation=jnp.ones_like(zero),
            seen=state.extra,
        )
        return state._replace(extra=learned)

    def round(
        self, key: jax.Array, numbers: Numbers, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        teams = self.sampler.draw_teams(keys.participation_key(key, state.round))
        state = self.look(key, numbers, state, federation, teams)
        learned = state.extra
        gains, device_share, way = self.gains(numbers, learned, federation)
        a, b = tree.take((gains.to_devices, gains.to_server), teams)
        moves = gains._replace(to_devices=a, to_server=b)
        team, device, cursor, memory, losses, turn = self.inner.below(
            key, moves, state, federation, teams, rows=0
        )
        all_team = tree.put(state.team, teams, team)
        team_mean, seen, memory = aggregation.mean_sent(
            *(self.schedule, self.sampler, federation, team, all_team, teams),
            learned.seen,
            Exchange(key, state.round, 0, state.server, memory),
        )
        residual = jax.tree.map(
            lambda w, x: (w - x) / way.astype(x.dtype), team_mean, state.server
        )
        least = way * self.sampler.acting_teams / self.sampler.num_teams
        reach = reaching.after(learned.reach, residual, least, numbers.memory)
        g = _choose(numbers, reach.length / way, numbers.given.to_teams)
        beyond = _choose(numbers, reach.beyond, jnp.zeros_like(least))
        learned = learned._replace(
            reach=reach._replace(beyond=beyond),
            relaxation=reaching.relaxed(learned.relaxation, *turn),
            seen=seen,
        )
        state = State(
            round=state.round + 1,
            cursor=cursor,
            device=device,
            team=all_team,
            server=tree.lerp(state.server, team_mean, g),
            extra=learned,
            uploads=memory,
        )
        return state, {
            "device/loss": losses.mean(),
            "device/share": device_share,
            "team/share": way,
            "server/gain": g,
        }

    def look(self, key, numbers, state, federation, teams):
        """The state with this round's reading; or at an x less far, and without it."""
        draw_key = keys.participation_key(key, state.round)
        cohort = self.sampler.draw_devices(draw_key, jnp.int32(0), teams, federation)
        own = Shared(tree.take(state.team, teams))
        if self.schedule.keep_personal:
            own = cohort.take(state.device)
        new, loss = spreads.look(
            self.loss_fn,
            self.schedule,
            self.sampler,
            key,
            cohort,
            cohort.take(state.cursor),
            teams,
            state.server,
            own,
            federation,
        )
        learned = state.extra
        keep = numbers.memory.astype(learned.weight.dtype)
        far, server, reach = reaching.look(learned.reach, state.server, loss)
        read = learned._replace(
            spreads=jax.tree.map(
                lambda old, now: keep * old + (1 - keep) * now, learned.spreads, new
            ),
            weight=keep * learned.weight + 1 - keep,
        )
        extra = tree.where(far, learned, read)._replace(reach=reach)
        return state._replace(server=server, extra=extra)

    def gains(self, numbers, learned, federation):
        """α, λ `[D]`, a and b `[M]`; how far devices and teams then go, `[]`."""
        num_teams = self.sampler.num_teams
        now = Spreads(*(x / learned.weight for x in learned.spreads))
        everyone, count = Cohort.everyone(federation), federation.train.count

        def team_sum(rows):
            mean = everyone.team_mean(rows, jnp.ones_like(rows), num_teams)
            return mean * jnp.array(self.sampler.team_sizes, rows.dtype)

        shares = pulls.best_shares(now, count, numbers.alike, team_sum)
        lr = numbers.given.device_lr.astype(now.energy.dtype)
        device_steps = self.schedule.device_steps
        h, soft = pulls.curvatures(now, lr)
        most, most_relaxed = pulls.limits(now, lr, device_steps)
        device = pulls.elsewhere(shares.device, h, soft)
        prox = pulls.device_pull(device, soft, lr, device_steps, most)
        moved = pulls.device_share(soft, lr, prox, device_steps)
        weight = weighting.device_weights(self.schedule, federation)
        moved, exact = (
            everyone.team_mean(rows, weight.astype(rows.dtype), num_teams)
            for rows in (moved, shares.device)
        )
        team = pulls.team_elsewhere(shares.team, exact, h, soft)
        far = jnp.maximum(_TRAVELLING - team, 0)
        target = team + far * jnp.maximum(learned.reach.agreement, 0)
        # θ hangs on w after K - 1 rounds.
        steps = self.schedule.team_steps
        relaxation = jnp.minimum(learned.relaxation, most_relaxed)
        a, b = pulls.team_moves(target, moved, relaxation, max(steps - 1, 1))
        q = weighting.team_weights(self.schedule, federation, num_teams)
        way = tree.mean(pulls.team_share(moved, a, b, steps), q)
        fixed = numbers.given
        gains = fixed._replace(
            device_prox=_choose(numbers, prox, fixed.device_prox),
            to_devices=_choose(numbers, a, fixed.to_devices),
            to_server=_choose(numbers, b, fixed.to_server),
        )
        return gains, tree.mean(moved, q), way

    def personalize(
        self,
        key: jax.Array,
        numbers: Numbers,
        state: State,
        federation: Federation,
        cohort: Cohort,
    ) -> Params:
        """L steps of every device of the cohort from its team's model."""
        gains, *_ = self.gains(numbers, state.extra, federation)
        gains = gains._replace(device_prox=cohort.take(gains.device_prox))
        return self.inner.personalize(key, gains, state, federation, cohort)


def _choose(numbers, adapted, fixed):
    return jnp.where(numbers.adapt > 0, adapted.astype(fixed.dtype), fixed)
