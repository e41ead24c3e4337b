"""PerMFL: personalised models for devices in teams under one server.

    min_x (1/M) Σ_i min_w { (1/N_i) Σ_j min_θ { f_ij(θ) + λ/2 |θ-w|² } + γ/2 |w-x|² }

Source: Banerjee, Dadras, Yurtsever, Bhuyan, "Personalized Multi-tier Federated
Learning", arXiv:2407.14251, Algorithm 1. Evaluated: PM = θ, TM = w, GM = x.

Defaults are the values of the paper's Table 2 (α = 0.01, η = 0.03, β = 0.6, λ = 0.5,
γ = 1.5).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import aggregation, keys, local, tree, uploads, weighting
from permfl_jax import hparams as checks
from permfl_jax.cohort import Cohort
from permfl_jax.local import Shared, Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State
from permfl_jax.uploads import Exchange


class Gains(NamedTuple):
    """The five numbers that Algorithm 1 really depends on.

    Attributes:
      device_lr: α, step size of the device steps.
      device_prox: λ, pull of a device towards its team in the device steps.
      to_devices: a = ηλ, how far a team moves towards the mean of its devices.
      to_server: b = ηγ, how far a team moves towards the global model.
      to_teams: g = βγ, how far the global model moves towards the mean of the teams.
    """

    device_lr: jax.Array
    device_prox: jax.Array
    to_devices: jax.Array
    to_server: jax.Array
    to_teams: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters as the paper names them.

    Attributes:
      device_lr: α.
      team_lr: η.
      server_lr: β.
      device_prox: λ, pull between device and team.
      team_prox: γ, pull between team and server.
      device_pull: a λ for the device steps alone, as in the released code (where it
        is the number of device steps, by mistake); `None` uses `device_prox`.
    """

    device_lr: float = 0.01
    team_lr: float = 0.03
    server_lr: float = 0.6
    device_prox: float = 0.5
    team_prox: float = 1.5
    device_pull: float | None = None

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        for name in ("team_lr", "server_lr", "device_prox", "team_prox", "device_pull"):
            checks.require(name, getattr(self, name))

    def traced(self) -> Gains:
        """The numbers that `Algorithm.round` takes."""
        pull = self.device_prox if self.device_pull is None else self.device_pull
        return Gains(
            device_lr=jnp.asarray(self.device_lr, float),
            device_prox=jnp.asarray(pull, float),
            to_devices=jnp.asarray(self.team_lr * self.device_prox, float),
            to_server=jnp.asarray(self.team_lr * self.team_prox, float),
            to_teams=jnp.asarray(self.server_lr * self.team_prox, float),
        )


def permfl(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Algorithm 1. Its `hparams` are `Gains`; `HParams(...).traced()` makes them.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K, L, batches, weights, which teams the server averages.
      sampler: who takes part.

    Examples:
      Two teams of one device each, whose optima are 1 and 3. x ends in the middle; w
      and θ one and two thirds of the way out, as of three equal springs in a row.

      >>> import numpy as np
      >>> from permfl_jax import federation, runner
      >>> devices = [{'c': np.float32([c])} for c in (1, 3)]
      >>> data = federation.from_arrays(devices, ['left', 'right'])
      >>> def loss(theta, batch):
      ...     return (theta - batch['c']) ** 2 / 2
      >>> algorithm = permfl(loss, Schedule(batch_size=None), Sampler.of(data))
      >>> hparams = HParams(
      ...     device_lr=0.5, team_lr=0.5, server_lr=1, device_prox=1, team_prox=1
      ... )
      >>> start = runner.start(algorithm, jnp.float32(0), data)
      >>> *_, (state, _) = runner.run(
      ...     algorithm, jax.random.key(0), hparams.traced(), start, data, 50
      ... )
      >>> [f'{x:.2f}' for x in (state.server, *state.team, *state.device)]
      ['2.00', '1.67', '2.33', '1.33', '2.67']
    """
    method = PerMFL(loss_fn, schedule, sampler)
    up_to_date = sampler.full and schedule.keep_personal
    personalize = None if up_to_date else method.personalize
    return Algorithm(method.init, method.round, personalize)


class Turn(NamedTuple):
    """Of a step and the one before it.

    Attributes:
      along: their inner product.
      square: of the one before; 0 for the first.
    """

    along: jax.Array
    square: jax.Array

    @classmethod
    def of(cls, now: Params, before: Params) -> "Turn":
        """Of two steps of one model."""
        return cls(tree.dot(now, before), tree.square(before))


class PerMFL(NamedTuple):
    """The constants of one PerMFL; `Algorithm` holds its methods.

    Attributes:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: see `permfl`.
      sampler: see `permfl`.
    """

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        """Everybody at `params`."""
        state = State(
            round=jnp.int32(0),
            cursor=jnp.zeros(num_devices, jnp.int32),
            device=tree.stack(params, num_devices)
            if self.schedule.keep_personal
            else None,
            team=tree.stack(params, num_teams),
            server=params,
            extra=aggregation.nobody_seen(self.schedule, self.sampler),
        )
        return uploads.with_memory(state, self.schedule, self.sampler, params)

    def round(
        self, key: jax.Array, gains: Gains, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        """One global round."""
        teams = self.sampler.draw_teams(keys.participation_key(key, state.round))
        team, device, cursor, memory, losses, _ = self.below(
            key, gains, state, federation, teams, None
        )
        all_team = tree.put(state.team, teams, team)
        team_mean, seen, memory = aggregation.mean_sent(
            *(self.schedule, self.sampler, federation, team, all_team, teams),
            state.extra,
            Exchange(key, state.round, 0, state.server, memory),
        )
        state = State(
            round=state.round + 1,
            cursor=cursor,
            device=device,
            team=all_team,
            # x <- (1 - βγ) x + βγ mean(w)
            server=tree.lerp(state.server, team_mean, gains.to_teams),
            extra=seen,
            uploads=memory,
        )
        return state, {"device/loss": losses.mean()}

    def below(self, key, gains, state, federation, teams, rows):
        """K team rounds from x: w `[m, ...]`, θ, cursors `[D]`, memory, losses, turn.

        `rows` is 0 where each of the m teams has a, b and each of the D devices a λ of
        its own, else `None`. Only for such `rows` there is a `Turn` `[m]`, of the last
        step of w and the one before it.
        """
        draw_key = keys.participation_key(key, state.round)

        def team_round(carry, k):
            team, device, cursor, memory, last = carry
            cohort = self.sampler.draw_devices(draw_key, k, teams, federation)
            before = cohort.take(cursor)
            prox = gains.device_prox if rows is None else cohort.take(gains.device_prox)
            steps = self.steps(key, gains._replace(device_prox=prox), federation)
            sending = Exchange(key, state.round, k, team, memory)
            theta, theta_mean, loss, memory = self.exchange(
                steps, cohort, before, Shared(team), sending
            )
            moved = jax.vmap(team_step, in_axes=(0, None, 0, rows, rows))(
                team, state.server, theta_mean, gains.to_devices, gains.to_server
            )
            if last is not None:
                step = jax.tree.map(jnp.subtract, moved, team)
                last = step, jax.vmap(Turn.of)(step, last[0])
            after = before + self.schedule.device_steps
            device, cursor = cohort.put((device, cursor), (theta, after))
            return (moved, device, cursor, memory, last), cohort.mean(loss)

        team = tree.stack(state.server, self.sampler.acting_teams)  # w starts at x
        last: Any = None
        if rows is not None:
            still = jax.tree.map(jnp.zeros_like, team)
            last = still, jax.vmap(Turn.of)(still, still)
        (team, device, cursor, memory, last), losses = jax.lax.scan(
            team_round,
            (team, state.device, state.cursor, state.uploads, last),
            jnp.arange(self.schedule.team_steps, dtype=jnp.int32),
        )
        return team, device, cursor, memory, losses, last and last[1]

    def steps(self, key: jax.Array, gains: Gains, federation: Federation) -> Steps:
        """The L steps of an exchange."""
        return Steps(
            self.loss_fn,
            self.schedule,
            keys.batch_key(key),
            Rates(gains.device_lr, gains.device_prox),
            federation,
        )

    def exchange(self, steps, cohort, cursor, team, sending):
        """θ from, and pulled to, w; kept if asked for: θ, its means, losses, memory."""
        weight = cohort.weights(
            weighting.device_weights(self.schedule, steps.federation)
        )
        acting = self.sampler.acting_teams
        if not self.schedule.keep_personal:
            theta_mean, _, loss, memory = uploads.train_mean(
                steps, cohort, cursor, team, team, weight, acting, sending
            )
            return None, theta_mean, loss, memory
        theta, loss = local.train(steps, cohort, cursor, team, team)
        theta_mean, memory = uploads.team_mean(
            self.schedule, steps.federation, cohort, theta, weight, acting, sending
        )
        return theta, theta_mean, loss, memory

    def personalize(
        self,
        key: jax.Array,
        gains: Gains,
        state: State,
        federation: Federation,
        cohort: Cohort,
    ) -> Params:
        """L steps of every device of the cohort from its team's model."""
        cursor = jnp.zeros_like(cohort.slot)
        steps = self.steps(keys.personalize_key(key), gains, federation)
        team = Shared(state.team)
        return local.train(steps, cohort, cursor, team, team)[0]


def team_step(
    team: Params,
    server: Params,
    theta_mean: Params,
    to_devices: jax.Array,
    to_server: jax.Array,
) -> Params:
    """w <- (1 - ηλ - ηγ) w + ηγ x + ηλ mean(θ), for one team.

    Args:
      team: w, leaves `[...]`.
      server: x, leaves `[...]`.
      theta_mean: mean of the devices' θ, leaves `[...]`.
      to_devices: a = ηλ.
      to_server: b = ηγ.

    Examples:
      >>> w, x, theta = jnp.float32(1), jnp.float32(0), jnp.float32(3)
      >>> float(team_step(w, x, theta, jnp.float32(0.5), jnp.float32(0.25)))
      1.75
    """

    def leaf(w, x, theta):
        a, b = to_devices.astype(w.dtype), to_server.astype(w.dtype)
        return (1 - a - b) * w + b * x + a * theta

    return jax.tree.map(leaf, team, server, theta_mean)
