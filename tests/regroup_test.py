"""Devices that move keep what is theirs; teams that are true are found and kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import classes_federation, mclr_loss, mclr_params, mesh_of

from permfl_jax import federation as federations
from permfl_jax import placement, regroup, runner
from permfl_jax.algorithms.permfl import HParams, permfl
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.probes import Probe
from permfl_jax.schedule import Schedule
from permfl_jax.teams import FORMATIONS, agreement
from permfl_jax.uploads import Memory

SCHEDULE = Schedule(team_steps=2, device_steps=3, batch_size=2)
NUMBERS = HParams(device_lr=0.1).traced()
KEY = jax.random.key(0)


def trained(federation, loss, params, rounds=2):
    algorithm = permfl(loss, SCHEDULE, Sampler.of(federation))
    state = runner.start(algorithm, params, federation)
    state, _ = runner.advance(algorithm, rounds, KEY, NUMBERS, state, federation)
    return algorithm, state


def test_the_next_round_is_that_of_a_federation_made_so():
    """Oracle: the same devices given to `from_arrays` in their new teams."""
    counts, before, after = (4, 5, 6, 7, 8), [0, 0, 0, 1, 1], [1, 0, 1, 0, 0]
    federation, devices = classes_federation(0, counts, before)
    algorithm, state = trained(federation, mclr_loss, mclr_params(0))
    theta = jax.tree.map(np.asarray, state.device)
    teams = jax.tree.map(np.asarray, state.team)
    # Sizes stay (3, 2): the new team 0 has devices 1, 3 and 4.
    moved, ours = regroup.into(state, federation, np.array(after))
    made = federations.from_arrays(devices, after)
    assert ours.identity.tolist() == made.identity.tolist() == [1, 3, 4, 0, 2]
    expected = moved._replace(
        device=jax.tree.map(lambda x: jnp.asarray(x[[1, 3, 4, 0, 2]]), theta),
        team=jax.tree.map(lambda x: jnp.stack([(x[0] + 2 * x[1]) / 3, x[0]]), teams),
    )
    for one, other in zip(
        jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    expected = jax.tree.map(jnp.copy, expected)  # rounds give their states away
    found, _ = runner.advance(algorithm, 1, KEY, NUMBERS, moved, ours)
    wanted, _ = runner.advance(algorithm, 1, KEY, NUMBERS, expected, made)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def two_kinds(sizes=(4, 4)):
    """Quadratics around one of two places, in teams that mix them; and the kinds."""
    rng = np.random.default_rng(0)
    kind = np.arange(sum(sizes)) % 2
    devices = []
    for place in kind:
        centre = rng.normal(size=(1, 6)) * 0.3 + (3.0 if place else -3.0)
        devices.append({"curvature": np.ones((1, 6)), "centre": centre})
    federation = federations.from_arrays(
        devices, np.repeat(np.arange(len(sizes)), sizes).tolist()
    )
    return federation, kind


def regrouping(name="model_distance", gate=0.1, after=3, every=2, loss=None):
    probe = Probe(
        loss or (lambda theta, batch: distance(theta, batch)),
        SCHEDULE,
        None,
        KEY,
        device_lr=0.1,
    )
    return regroup.Regrouping(FORMATIONS[name], probe, after, every, gate, seed=0)


def distance(theta, batch):
    apart = theta[None] - batch["centre"]
    return 0.5 * (batch["curvature"] * apart**2).sum(axis=1)


@pytest.mark.parametrize("name", ["model_distance", "update_cosine"])
def test_true_teams_are_found_once_and_then_kept(name):
    data, kind = two_kinds()
    algorithm = permfl(distance, SCHEDULE, Sampler.of(data))

    def after(rounds):
        start = runner.start(algorithm, jnp.zeros(6), data)
        state, found, looks = regroup.run(
            algorithm, KEY, NUMBERS, start, data, rounds, regrouping(name)
        )
        assert int(state.round) == rounds
        truth = kind[np.asarray(found.identity)]
        return agreement.adjusted_rand(np.asarray(found.team), truth), looks

    assert after(3)[0] < 0.2
    assert after(4)[0] == 1.0
    agreed, looks = after(9)
    assert agreed == 1.0
    assert [look.round for look in looks] == [3, 5, 7]
    assert [look.taken for look in looks] == [True, False, False]
    assert looks[0].gain > 0.9 > looks[1].gain
    assert (looks[0].up, looks[0].down) == (2 * 8 * 6 * 8, 2 * 8 * 6 * 8)


def test_a_gate_that_nothing_passes_changes_no_bit():
    federation, _ = two_kinds()
    algorithm = permfl(distance, SCHEDULE, Sampler.of(federation))
    start = runner.start(algorithm, jnp.zeros(6), federation)
    state, same, looks = regroup.run(
        algorithm, KEY, NUMBERS, start, federation, 6, regrouping(gate=1.0)
    )
    assert [look.taken for look in looks] == [False, False]
    assert same.identity.tolist() == federation.identity.tolist()
    _, plain = trained(federation, distance, jnp.zeros(6), rounds=6)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
        assert (np.asarray(one) == np.asarray(other)).all()


def test_looks_hang_on_the_round_alone():
    """A run that goes on from round t looks when the whole run would have."""
    when = regrouping(after=3, every=4)
    assert [when.next_look(done) for done in range(12)] == [3] * 3 + [7] * 4 + [
        11
    ] * 4 + [15]


@pytest.mark.parametrize("name", ["model_distance", "update_cosine"])
def test_devices_that_are_all_alike_are_left_where_they_are(name):
    """What their first batches seem to tell does not come back in the next ones."""
    rng = np.random.default_rng(0)
    devices = [
        {"curvature": np.ones((40, 6)), "centre": rng.normal(size=(40, 6))}
        for _ in range(24)
    ]
    federation = federations.from_arrays(devices, np.repeat([0, 1, 2], 8).tolist())
    algorithm = permfl(distance, SCHEDULE, Sampler.of(federation))
    state = runner.start(algorithm, jnp.zeros(6), federation)
    _, same, looks = regroup.run(
        algorithm, KEY, NUMBERS, state, federation, 9, regrouping(name)
    )
    assert [look.taken for look in looks] == [False] * 3
    assert same.identity.tolist() == federation.identity.tolist()


def test_two_halves_are_the_whole_run():
    data, _ = two_kinds()
    algorithm = permfl(distance, SCHEDULE, Sampler.of(data))

    def until(rounds, state=None, federation=data):
        state = runner.start(algorithm, jnp.zeros(6), data) if state is None else state
        return regroup.run(
            algorithm, KEY, NUMBERS, state, federation, rounds, regrouping()
        )

    whole, there, looks = until(7)
    half, between, first = until(3)
    again, here, second = until(7, half, between)
    assert first + second == looks
    assert here.identity.tolist() == there.identity.tolist()
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        assert (np.asarray(one) == np.asarray(other)).all()


def test_what_a_method_keeps_of_teams_stays_with_them():
    """`stale_seen` keeps an array, not a tuple, in `extra`."""
    federation, _ = two_kinds()
    schedule = Schedule(
        team_steps=1, device_steps=1, batch_size=2, aggregate="stale_seen"
    )
    algorithm = permfl(distance, schedule, Sampler.of(federation, 1))
    state = runner.start(algorithm, jnp.zeros(6), federation)
    state, _ = runner.advance(algorithm, 1, KEY, NUMBERS, state, federation)
    moved, _ = regroup.into(state, federation, np.arange(8) % 2)
    assert moved.extra.tolist() == state.extra.tolist()


@pytest.mark.parametrize("wrong", [{"every": 0}, {"after": -1}, {"gate": 1.5}])
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match="after >= 0, every >= 1 and a gate"):
        regrouping(**wrong).check()


def test_what_cannot_be_moved_is_refused():
    federation, _ = two_kinds()
    _, state = trained(federation, distance, jnp.zeros(6))
    with pytest.raises(InputError, match="update_cosine or model_distance"):
        regrouping("label_kmeans").look(state, federation)
    coded = state._replace(uploads=Memory(state.device, None, None))
    with pytest.raises(InputError, match="coded uploads"):
        regrouping().look(coded, federation)
    placed = placement.place(federation, mesh_of(2, 1), None)
    with pytest.raises(InputError, match="--chips=1"):
        regrouping().look(state, placed)
