"""One solver in every form: shared or own starts, in chunks, with or without θ kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import classes_federation, mclr_loss, mclr_params

from permfl_jax import keys, local, placement, tree
from permfl_jax.cohort import Cohort
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule

COUNTS, TEAMS = [5, 9, 2, 7, 4, 6], [0, 0, 0, 1, 1, 2]


def setting(device_chunk=None, batch_size=4):
    """The rule, everyone, a cursor, three team models and a pull towards them."""
    federation, _ = classes_federation(0, COUNTS, TEAMS)
    federation = placement.place(federation, device_chunk=device_chunk)
    steps = local.Steps(
        mclr_loss,
        Schedule(device_steps=3, batch_size=batch_size),
        keys.batch_key(jax.random.key(1)),
        Rates(jnp.float64(0.2), jnp.float64(0.5)),
        federation,
    )
    rows = [mclr_params(seed) for seed in range(3)]
    team = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    return steps, Cohort.everyone(federation), jnp.arange(6, dtype=jnp.int32), team


def close(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), one, two)


def run(function, *args):
    return jax.jit(lambda: function(*args))()


@pytest.fixture(scope="module")
def trained():
    """θ and losses, all devices at once, each starting from rows of its own."""
    steps, cohort, cursor, team = setting(device_chunk=6)
    own = tree.take(team, cohort.slot)
    theta, loss = run(local.train, steps, cohort, cursor, own, own)
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), theta, own)
    assert min(jax.tree.leaves(moved)) > 1e-2
    return theta, loss


@pytest.mark.parametrize("device_chunk", [None, 1, 2, 5, 100])
def test_a_team_model_is_each_of_its_devices_start(trained, device_chunk):
    """5 does not divide 6: 3 at once are taken."""
    steps, cohort, cursor, team = setting(device_chunk)
    shared = local.Shared(team)
    close(run(local.train, steps, cohort, cursor, shared, shared), trained)


@pytest.mark.parametrize("device_chunk", [None, 1, 2, 6])
def test_means_without_theta_are_the_means_of_theta(trained, device_chunk):
    steps, cohort, cursor, team = setting(device_chunk)
    weight = jnp.asarray([1.0, 2.0, 0.0, 0.5, 4.0, 3.0])
    shared = local.Shared(team)
    mean, kept, loss = run(
        local.train_mean, steps, cohort, cursor, shared, shared, weight, 3
    )
    assert kept is None
    close((mean, loss), (cohort.team_mean(trained[0], weight, 3), trained[1]))


def test_own_starts_and_no_pull_also_have_means():
    steps, cohort, cursor, team = setting()
    own = tree.take(team, cohort.slot)
    weight = jnp.ones(6)
    mean, _, _ = run(local.train_mean, steps, cohort, cursor, own, None, weight, 3)
    theta, _ = run(local.train, steps, cohort, cursor, own, None)
    close(mean, cohort.team_mean(theta, weight, 3))


def test_memory_follows_the_devices_at_once():
    """64 devices: at most a few models each in the work of a chunk, and no θ kept."""
    federation, _ = classes_federation(0, [4] * 64, [0] * 32 + [1] * 32, dim=500)
    params = mclr_params(0, dim=500)
    model = sum(x.nbytes for x in jax.tree.leaves(params))
    team = tree.stack(params, 2)

    def temporaries(chunk):
        placed = placement.place(federation, device_chunk=chunk)
        steps = setting()[0]._replace(federation=placed)
        cohort, cursor = Cohort.everyone(placed), jnp.zeros(64, jnp.int32)

        def exchange(team):
            shared = local.Shared(team)
            return local.train_mean(
                steps, cohort, cursor, shared, shared, jnp.ones(64), 2
            )

        return (
            jax.jit(exchange).lower(team).compile().memory_analysis()
        ).temp_size_in_bytes

    assert temporaries(64) > 64 * model  # the measure sees them
    assert temporaries(4) < 24 * model
