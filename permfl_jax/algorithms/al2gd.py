"""AL2GD: all meet, teams meet or devices step, by the toss of coins.

    Φ(θ) = Σ_n m_n f_n(θ_n)
           + min_{w,x} Σ_j { Σ_{n in j} m_n λ/2 |θ_n-w_j|² + q_j γ/2 |w_j-x|² }

with m_n = q_j p_n. K·L times, with α = γ/(γ+λ):

    all meet (probability p₀):  θ_n <- θ_n - ηλ/p₀ [α(θ_n-θ̄) + τ(1-α)(θ_n-θ̄_j)]
    else a team meets (p_j):    θ_n <- θ_n - ηλ(1-τ)(1-α)/((1-p₀)p_j) (θ_n-θ̄_j)
    else its devices step:      θ_n <- θ_n - η/((1-p₀)(1-p_j)) ∇f_n(θ_n)

Source: Lyu, Hanzely, Kolar, "Personalized Federated Learning with Multiple Known
Clusters", arXiv:2204.13619. There, devices have γ_n and teams λ_j, θ̄_j is a team's mean
by γ_n, and α_j = λ_j / (λ_j + Γ_j) with Γ_j = Σ γ_n. For the functions m_n f_n we take
γ_n = m_n λ and λ_j = q_j γ, and divide a device's step size by m_n. A team's Σ m_n is
q_j, so Γ_j = q_j λ and α_j = γ/(γ+λ) for teams of any size, θ̄_j = Σ p_n θ_n and
θ̄ = Σ q_j θ̄_j. With all m_n alike that is γ_n = λ, λ_j = N_j γ.

Φ is PerMFL's objective, and a step is -η ∂Φ/∂θ_n / m_n in the mean, but at random: near
the optimum, |θ-θ*|² stays in proportion to η. One team is L2GD. Gradients are computed
whatever the coins say: the cursor does not depend on hyper-parameters. Means are over
who takes part in the round (one draw; `--aggregate` plays no part). Evaluated: PM = θ,
TM = w_j = (1-α)θ̄_j + αθ̄, GM = θ̄.

Defaults: PerMFL's η, λ and γ; p₀, p_j and τ are ours.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax import flat, keys, local, tree, weighting
from permfl_jax import hparams as checks
from permfl_jax.cohort import Cohort
from permfl_jax.local import Steps
from permfl_jax.participation import Sampler
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation, LossFn, Metrics, Params, State


class Numbers(NamedTuple):
    """What `Algorithm.round` takes: probabilities, and how far each case goes.

    Attributes:
      all_probability: p₀.
      team_probability: p_j.
      lr: of a step, η / ((1-p₀)(1-p_j)).
      all_to_server: when all meet, towards θ̄: ηλα / p₀.
      all_to_team: when all meet, towards θ̄_j: ηλτ(1-α) / p₀.
      team_to_team: when a team meets, towards θ̄_j: ηλ(1-τ)(1-α) / ((1-p₀)p_j).
      server_share: α.
    """

    all_probability: jax.Array
    team_probability: jax.Array
    lr: jax.Array
    all_to_server: jax.Array
    all_to_team: jax.Array
    team_to_team: jax.Array
    server_share: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HParams:
    """Hyper-parameters.

    Attributes:
      device_lr: η.
      device_prox: λ, pull between device and team.
      team_prox: γ, pull between team and server.
      all_probability: p₀, that all meet.
      team_probability: p_j, that a team meets where not all do.
      team_share: τ, how much of the pull to the team is left to when all meet.
    """

    device_lr: float = 0.01
    device_prox: float = 0.5
    team_prox: float = 1.5
    all_probability: float = 0.1
    team_probability: float = 0.2
    team_share: float = 0.5

    def __post_init__(self):
        checks.require("device_lr", self.device_lr, above=0)
        checks.require("device_prox", self.device_prox)
        checks.require("team_prox", self.team_prox)
        for name in ("all_probability", "team_probability"):
            checks.require(name, getattr(self, name), above=0, below=1)
        checks.require("team_share", self.team_share, most=1)

    @property
    def server_share(self) -> float:
        """α = γ/(γ+λ); 0 where nothing pulls."""
        pull = self.team_prox + self.device_prox
        return self.team_prox / pull if pull else 0.0

    @property
    def all_pull(self) -> float:
        """λ(α + τ(1-α)) / p₀: when all meet, devices go η of that of the way."""
        to_team = self.team_share * (1 - self.server_share)
        return self.device_prox * (self.server_share + to_team) / self.all_probability

    @property
    def team_pull(self) -> float:
        """λ(1-τ)(1-α) / ((1-p₀)p_j): likewise when a team meets."""
        chance = (1 - self.all_probability) * self.team_probability
        part = (1 - self.team_share) * (1 - self.server_share)
        return self.device_prox * part / chance

    def traced(self) -> Numbers:
        """The numbers that `Algorithm.round` takes."""
        alone = (1 - self.all_probability) * (1 - self.team_probability)
        to_server = self.device_prox * self.server_share / self.all_probability
        numbers = {
            "all_probability": self.all_probability,
            "team_probability": self.team_probability,
            "lr": self.device_lr / alone,
            "all_to_server": self.device_lr * to_server,
            "all_to_team": self.device_lr * (self.all_pull - to_server),
            "team_to_team": self.device_lr * self.team_pull,
            "server_share": self.server_share,
        }
        return Numbers(**{k: jnp.asarray(v, float) for k, v in numbers.items()})


def al2gd(loss_fn: LossFn, schedule: Schedule, sampler: Sampler) -> Algorithm:
    """Loopless gradient descent in teams.

    Args:
      loss_fn: `(params, batch) -> losses [B]`.
      schedule: K·L iterations, batches, weights p and q.
      sampler: who takes part.

    Raises:
      InputError: the schedule keeps no personal models, or codes uploads.
    """
    schedule.require_personal("al2gd")
    schedule.require_uploads("al2gd")
    method = _AL2GD(loss_fn, schedule, sampler)
    return Algorithm(method.init, method.round)


class _AL2GD(NamedTuple):
    """The constants of one AL2GD; `Algorithm` holds its methods."""

    loss_fn: LossFn
    schedule: Schedule
    sampler: Sampler

    def init(self, params: Params, num_devices: int, num_teams: int) -> State:
        return flat.no_device_state(params, num_devices, num_teams)._replace(
            device=tree.stack(params, num_devices), team=tree.stack(params, num_teams)
        )

    def round(
        self, key: jax.Array, numbers: Numbers, state: State, federation: Federation
    ) -> tuple[State, Metrics]:
        draw_key = keys.participation_key(key, state.round)
        teams = self.sampler.draw_teams(draw_key)
        cohort = self.sampler.draw_devices(draw_key, jnp.int32(0), teams, federation)
        steps = Steps(
            self.loss_fn,
            self.schedule,
            keys.batch_key(key),
            Rates(numbers.lr, jnp.zeros_like(numbers.lr)),
            federation,
            count=1,
        )

        def iteration(carry, number):
            theta, cursor = carry
            stepped, loss = local.train(steps, cohort, cursor, theta, None)
            means = self.means(cohort, teams, federation, theta)
            coins = toss(key, state.round, number, self.sampler.num_teams, numbers)
            coins = coins._replace(team=tree.take(coins.team, teams))
            theta = move(cohort, theta, stepped, means, coins, numbers)
            return (theta, cursor + steps.taken), cohort.mean(loss)

        (theta, cursor), losses = jax.lax.scan(
            iteration,
            cohort.take((state.device, state.cursor)),
            jnp.arange(self.schedule.steps_per_round, dtype=jnp.int32),
        )
        means, mean = self.means(cohort, teams, federation, theta)
        everywhere = tree.stack(mean, self.sampler.acting_teams)
        team = tree.lerp(means, everywhere, numbers.server_share)
        device, cursor = cohort.put((state.device, state.cursor), (theta, cursor))
        team = tree.put(state.team, teams, team)
        state = State(state.round + 1, cursor, device, team, server=mean)
        return state, {"device/loss": losses.mean()}

    def means(self, cohort, teams, federation, theta):
        """θ̄_j and θ̄ of who takes part."""
        schedule, sampler = self.schedule, self.sampler
        p = cohort.weights(weighting.device_weights(schedule, federation))
        q = weighting.team_weights(schedule, federation, sampler.num_teams)
        team = cohort.team_mean(theta, p, sampler.acting_teams)
        return team, tree.mean(team, tree.take(q, teams))


class Coins(NamedTuple):
    """What the coins of one iteration say.

    Attributes:
      everyone: `[]` bool, all meet.
      team: `[M]` bool, each team meets, if not all do.
    """

    everyone: jax.Array
    team: jax.Array


def toss(
    key: jax.Array,
    round_: jax.Array,
    number: jax.Array,
    num_teams: int,
    numbers: Numbers,
) -> Coins:
    """The coins of an iteration.

    Args:
      key: the key of the run.
      round_: `[]` int32, t.
      number: `[]` int32, of the iteration in its round.
      num_teams: M; a team's coin is its own, whoever takes part.
      numbers: the probabilities.
    """
    key = jax.random.fold_in(jax.random.fold_in(keys.draw_key(key), round_), number)
    common, own = jax.random.split(key)
    team_keys = keys.fold_each(own, jnp.arange(num_teams))
    return Coins(
        jax.random.bernoulli(common, numbers.all_probability),
        jax.vmap(jax.random.bernoulli, in_axes=(0, None))(
            team_keys, numbers.team_probability
        ),
    )


def move(
    cohort: Cohort,
    theta: Params,
    stepped: Params,
    means: tuple[Params, Params],
    coins: Coins,
    numbers: Numbers,
) -> Params:
    """θ after one iteration, leaves `[A, ...]`.

    Args:
      cohort: which devices these are.
      theta: θ before it, leaves `[A, ...]`.
      stepped: what a gradient step makes of it, leaves `[A, ...]`.
      means: of it, θ̄_j, leaves `[m, ...]`, and θ̄, leaves `[...]`.
      coins: what they said, the teams' `[m]`.
      numbers: how far to go.
    """
    everyone = coins.everyone
    to_server = jnp.where(everyone, numbers.all_to_server, 0)
    to_team = jnp.where(everyone, numbers.all_to_team, numbers.team_to_team)
    meet = everyone | coins.team
    own_mean, own_meet = cohort.of_team((means[0], meet))

    def leaf(theta, stepped, own, common):
        here, far = to_team.astype(theta.dtype), to_server.astype(theta.dtype)
        met = theta - far * (theta - common[None]) - here * (theta - own)
        return jnp.where(own_meet.reshape(-1, *[1] * (theta.ndim - 1)), met, stepped)

    return jax.tree.map(leaf, theta, stepped, own_mean, means[1])


def advise(hparams: HParams, *_: object) -> list[str]:
    """Warns where η takes devices that meet past the mean they meet at."""
    return [
        f"device_lr (η = {hparams.device_lr:g}) takes devices past their mean when "
        f"{who}: use --hparam=device_lr={1 / pull:.2g} or less, or a larger {knob}."
        for who, pull, knob in (
            ("all meet", hparams.all_pull, "all_probability"),
            ("a team meets", hparams.team_pull, "team_probability"),
        )
        if hparams.device_lr * pull > 1
    ]
