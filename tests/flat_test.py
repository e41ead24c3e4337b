"""Devices without teams: who is drawn, what their mean is, how a model is adapted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import SEED, vectors, world

from permfl_jax import flat
from permfl_jax.cohort import Cohort
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule

DRAWS = ["uniform", "draws", "samples_draws", "samples_draws_batches"]


def drawn(place, t):
    return _draw(place.sampler, jax.random.key(SEED), jnp.int32(t), place.federation)


_draw = jax.jit(flat.draw, static_argnums=0)


def numbers(cohort, count):
    """The devices that are present."""
    if cohort.device is None:
        return list(range(count))
    return np.asarray(cohort.device)[np.asarray(cohort.present)].tolist()


@pytest.mark.parametrize("name", DRAWS)
def test_who_acts_is_drawn_as_in_the_first_exchange_of_a_tiered_method(name):
    place = world(name)
    rounds = [numbers(drawn(place, t), len(place.team)) for t in range(6)]
    assert rounds == [place.acting(t) for t in range(6)]
    assert (len({tuple(r) for r in rounds}) > 1) == ("draws" in name)


@pytest.mark.parametrize("name", DRAWS)
def test_all_are_in_one_team(name):
    cohort = drawn(world(name), 0)
    assert not np.any(cohort.slot)
    assert not cohort.all_teams


@pytest.mark.parametrize("name", DRAWS)
def test_means_are_over_those_who_act(name):
    place = world(name)
    cohort = drawn(place, 1)
    rows = np.random.default_rng(0).normal(size=(len(cohort.slot), 2))
    schedule = Schedule(weights=place.schedule["weights"])
    got = flat.mean(schedule, place.federation, cohort, jnp.asarray(rows))
    acting = place.acting(1)
    here = np.arange(len(rows)) if cohort.present is None else cohort.present
    expected = np.average(rows[here], axis=0, weights=place.weight[acting])
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_one_team_there_and_back():
    model = {"a": jnp.arange(3.0), "b": jnp.asarray(2.0)}
    shared = flat.to_all(model)
    assert shared.models["a"].shape == (1, 3)
    jax.tree.map(np.testing.assert_array_equal, flat.of_one(shared.models), model)


def test_the_state_of_a_global_model():
    state = flat.no_device_state(jnp.ones(3), 5, 2)
    assert state.cursor.tolist() == [0] * 5
    assert (state.device, state.team, state.extra) == (None, None, None)
    np.testing.assert_array_equal(state.server, np.ones(3))


@pytest.mark.parametrize(
    ("anchored", "chosen"), [(False, [0, 1, 2, 3]), (True, [2, 0])]
)
def test_adapting_is_descent_of_any_devices_from_the_server(anchored, chosen):
    """On mini-batches of a stream of its own, from its beginning; pulled if asked."""
    place = world("samples_draws_batches")
    schedule = Schedule(**place.schedule)
    method = flat.Averaging(place.loss, schedule, place.sampler)
    device = jnp.asarray(chosen, jnp.int32)
    adapted = jax.jit(method.adapted, static_argnums=(5, 6))
    got = adapted(
        jax.random.key(SEED),
        Rates(jnp.asarray(0.2), jnp.asarray(0.5)),
        place.params,
        place.federation,
        Cohort(device, jnp.asarray(place.team[chosen], jnp.int32), None),
        3,
        anchored,
    )
    x, expected = place.start, []
    for n in chosen:
        theta = x
        for step in range(3):
            pull = 0.5 * (theta - x) if anchored else 0
            theta = theta - 0.2 * (place.tuning(n, step, theta) + pull)
        expected.append(theta)
    np.testing.assert_allclose(vectors(got, len(chosen)), expected, rtol=1e-10)
