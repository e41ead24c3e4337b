"""The loop over rounds: donation, divergence, bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from federations import (
    classes_federation,
    gains,
    mclr_loss,
    mclr_params,
    quadratic_federation,
    quadratic_loss,
)

from permfl_jax import runner
from permfl_jax.algorithms.permfl import permfl
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

# On curvatures up to 3 a device step multiplies errors by up to |1 - 3 (3 + 0.5)|.
EXPLOSIVE = {"alpha": 3.0, "lam": 0.5, "a": 0.5, "b": 0.1, "g": 0.5}
CALM = EXPLOSIVE | {"alpha": 0.1}


def run(numbers, rounds=60, rounds_per_call=1):
    federation = quadratic_federation(oracles.random_quadratics(0, (2, 1), 3))
    schedule = Schedule(team_steps=2, device_steps=3, batch_size=None)
    algorithm = permfl(quadratic_loss, schedule, Sampler((2, 1)))
    return runner.run(
        algorithm,
        jax.random.key(0),
        gains(**numbers),
        runner.start(algorithm, jnp.ones(3), federation),
        federation,
        rounds,
        rounds_per_call,
    )


def test_the_callers_model_survives_donation():
    federation, _ = classes_federation(0, [4, 5, 6], [0, 0, 1])
    algorithm = permfl(mclr_loss, Schedule(team_steps=2), Sampler((2, 1)))
    params = mclr_params(1)
    state = runner.start(algorithm, params, federation)
    numbers = gains(0.1, 0.5, 0.1, 0.1, 0.5)
    list(runner.run(algorithm, jax.random.key(0), numbers, state, federation, 2))
    assert np.isfinite(np.asarray(params["weight"])).all()  # not deleted


@pytest.mark.parametrize("rounds_per_call", [1, 5])
def test_divergence_names_round_tier_and_quantity(rounds_per_call):
    steps = run(EXPLOSIVE, rounds_per_call=rounds_per_call)
    rounds_done = []
    with pytest.raises(DivergenceError, match=r"Round \d+ diverged: .*not finite") as e:
        rounds_done.extend(int(state.round) for state, _ in steps)
    last = rounds_done[-1] if rounds_done else 0
    named = int(str(e.value).split()[1])
    assert last < named <= last + rounds_per_call
    assert "device model" in str(e.value)


def test_divergence_is_found_in_the_first_bad_round():
    """The same round whether rounds are called one by one or ten at a time."""
    found = set()
    for rounds_per_call in (1, 20):
        with pytest.raises(DivergenceError) as error:
            list(run(EXPLOSIVE, 60, rounds_per_call))
        found.add(str(error.value))
    assert len(found) == 1
    assert int(found.pop().split()[1]) > 1  # not simply the first round


def test_only_the_tier_that_broke_is_named():
    none, two = np.array([0, 0]), np.array([0, 2])
    good = {"broken/device": none, "first_broken/device": np.array([9, 9])}
    team = {"broken/team": two, "first_broken/team": np.array([5, 3])}
    loss = {"device/loss": np.array([0.5, np.inf])}
    with pytest.raises(
        DivergenceError,
        match=r"Round 8 diverged: team model \(2, the first of team 3\) not finite",
    ):
        runner.check_finite(7, good | team)
    with pytest.raises(DivergenceError, match=r"Round 8 diverged: device loss not fin"):
        runner.check_finite(7, good | loss)
    runner.check_finite(7, good | {"device/loss": jnp.ones(2)})


def test_the_first_broken_device_and_team_are_found():
    """One device's loss explodes in round 3, in the last of its K·L steps."""
    algorithm = Breaks(permfl(quadratic_loss, Schedule(), Sampler((2, 1))))
    federation = quadratic_federation(oracles.random_quadratics(0, (2, 1), 3))
    state = runner.start(algorithm.method, jnp.ones(3), federation)
    broken = algorithm.method._replace(round=algorithm.round)
    for rounds_per_call in (1, 6):
        steps = runner.run(
            broken, jax.random.key(0), None, state, federation, 6, rounds_per_call
        )
        with pytest.raises(
            DivergenceError,
            match=r"Round 3 diverged: device model \(2, the first of device 1\) not",
        ):
            list(steps)
        state = runner.start(algorithm.method, jnp.ones(3), federation)


class Breaks:
    """Rounds that change nothing, until devices 1 and 2 break in round 3."""

    def __init__(self, method):
        self.method = method

    def round(self, key, hparams, state, federation):
        bad = (state.round == 2) & (jnp.arange(3) > 0)
        device = jnp.where(bad[:, None], jnp.nan, state.device)
        return state._replace(round=state.round + 1, device=device), {}


def test_rounds_per_call_must_divide():
    with pytest.raises(InputError, match="--rounds_per_call=3"):
        list(run(CALM, 4, 3))


def test_a_calm_run_is_not_accused():
    *_, (state, _) = run(CALM, 60)
    assert int(state.round) == 60
