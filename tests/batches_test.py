"""The definition of a step, as `permfl_jax.batches` states it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permfl_jax import batches, keys, local
from permfl_jax.cohort import Cohort
from permfl_jax.federation import from_arrays
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule

MAX_COUNT = 40
CURSORS = 3 * MAX_COUNT
SIZES = (1, 3, 7, 16, 64)


@functools.partial(jax.jit, static_argnums=(0, 1))
def stream(batching, batch_size, key, count):
    """Positions and reality of steps 0, 1, ... of one device."""
    cursors = jnp.arange(CURSORS, dtype=jnp.int32)
    return jax.vmap(
        lambda cursor: batches.positions(batching, batch_size, key, cursor, count)
    )(cursors)


def steps(batching, batch_size, seed, count):
    """The rows of each step that are real, as lists."""
    place, real = stream(batching, batch_size, jax.random.key(seed), jnp.int32(count))
    place, real = np.asarray(place), np.asarray(real)
    assert place.min() >= 0
    assert place.max() < count
    return [p[r].tolist() for p, r in zip(place, real, strict=True)]


def passes(batching, batch_size, seed, count):
    """The steps of each full pass."""
    per_pass = -(-count // batch_size)
    all_steps = steps(batching, batch_size, seed, count)
    return [
        all_steps[first : first + per_pass]
        for first in range(0, CURSORS - per_pass + 1, per_pass)
    ]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    batching=st.sampled_from(["shuffle", "cyclic"]),
    batch_size=st.sampled_from(SIZES),
    count=st.integers(1, MAX_COUNT),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_pass_sees_every_sample_once(batching, batch_size, count, seed):
    found = passes(batching, batch_size, seed, count)
    assert len(found) >= 3
    whole, ragged = divmod(count, batch_size)
    for one in found:
        assert sorted(row for step in one for row in step) == list(range(count))
        sizes = [len(step) for step in one]
        assert sizes == [batch_size] * whole + ([ragged] if ragged else [])


@pytest.mark.parametrize("batching", ["shuffle", "cyclic"])
@pytest.mark.parametrize("count", [1, 6, 7])
def test_a_device_no_larger_than_a_batch_sees_all_samples_in_every_step(
    batching, count
):
    for step in steps(batching, 7, 0, count):
        assert sorted(step) == list(range(count))


def test_cyclic_keeps_the_stored_order_in_every_pass():
    for one in passes("cyclic", 3, 0, 8):
        assert one == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_shuffled_passes_have_orders_of_their_own():
    orders = [
        tuple(itertools.chain.from_iterable(one)) for one in passes("shuffle", 3, 0, 20)
    ]
    assert len(set(orders)) == len(orders)
    assert tuple(range(20)) not in orders


def test_the_stream_hangs_on_the_key():
    assert steps("shuffle", 7, 1, 30) == steps("shuffle", 7, 1, 30)
    assert steps("shuffle", 7, 1, 30) != steps("shuffle", 7, 2, 30)


def test_fetch_gives_the_rows_of_the_device():
    pool = {"x": jnp.arange(20.0).reshape(10, 2), "y": jnp.arange(10)}
    batch = batches.fetch(pool, jnp.int32(4), jnp.array([2, 0, 2], jnp.int32))
    np.testing.assert_array_equal(batch["y"], [6, 4, 6])
    np.testing.assert_array_equal(batch["x"], [[12, 13], [8, 9], [12, 13]])


# Which samples training really reads. Sample r has the loss θ_r, so with α = 1 each
# step lowers θ by 1/|batch| at the rows that it saw.
POOL = 24


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(loss_fn, schedule, key, theta, lr, federation, cohort, cursor):
    steps = local.Steps(
        loss_fn, schedule, key, Rates(lr, jnp.zeros_like(lr)), federation
    )
    return local.train(steps, cohort, cursor, theta, None)


def marking_loss(theta, batch):
    return theta[batch["row"]]


def trained(counts, teams, rounds_of_steps, batch_size, devices=None):
    """`[calls, devices, POOL]`: how each call of `local.train` moved each device."""
    rows = np.split(np.arange(POOL), np.cumsum(counts))[:-1]
    federation = from_arrays([{"row": r} for r in rows], teams)
    if devices is None:
        cohort = Cohort.everyone(federation)
        acting = len(counts)
    else:
        index = jnp.asarray(devices, jnp.int32)
        cohort = Cohort(index, federation.team[index], None)
        acting = len(devices)
    theta = jnp.zeros((acting, POOL))
    cursor, moves = 0, []
    for number in rounds_of_steps:
        schedule = Schedule(device_steps=number, batch_size=batch_size)
        new, _ = advance(
            marking_loss,
            schedule,
            keys.batch_key(jax.random.key(0)),
            theta,
            jnp.float64(1),
            federation,
            cohort,
            jnp.full(acting, cursor, jnp.int32),
        )
        moves.append(np.asarray(theta - new))
        theta, cursor = new, cursor + number
    return np.stack(moves), federation


def test_the_cursor_goes_on_across_calls_in_mid_pass():
    # 10 samples in batches of 4 are 3 steps a pass; 2 + 4 steps are two passes.
    apart, _ = trained([10], [0], [2, 4], 4)
    together, _ = trained([10], [0], [6], 4)
    np.testing.assert_allclose(apart.sum(axis=0), together[0], rtol=1e-14)
    # After 2 steps 8 samples have been seen, each once with weight 1/4; the 2 left
    # come first in the next call.
    assert np.sum(apart[0, 0] == 0.25) == 8
    left = np.flatnonzero(apart[0, 0, :10] == 0)
    one_more, _ = trained([10], [0], [3], 4)
    np.testing.assert_allclose(one_more[0, 0, left], 0.5)
    # Two passes: every sample of the device twice, nobody else's at all.
    seen = together[0, 0]
    assert np.all(np.isin(np.round(seen[:10], 9), [0.5, 0.75, 1.0]))
    np.testing.assert_allclose(seen.sum(), 6)
    np.testing.assert_array_equal(seen[10:], 0)


def test_the_order_of_a_device_does_not_depend_on_who_else_is_there():
    counts = [9, 3, 12]
    alike, _ = trained(counts, [0, 0, 1], [2], 4)
    # The same devices in other teams, hence in another order.
    moved, federation = trained(counts, [1, 0, 0], [2], 4)
    rows = moved[0][np.argsort(np.asarray(federation.identity))]
    for d, (a, b) in enumerate(zip(alike[0], rows, strict=True)):
        # Device d's samples stand elsewhere in the pool, but `row` names them.
        np.testing.assert_array_equal(a, b, err_msg=f"device {d}")
    # Only some of them act.
    some, _ = trained(counts, [0, 0, 1], [2], 4, devices=[2, 0])
    np.testing.assert_array_equal(some[0], alike[0][[2, 0]])


def test_two_devices_alike_do_not_share_an_order():
    moves, _ = trained([12, 12], [0, 0], [1], 4)
    first, second = moves[0][0, :12], moves[0][1, 12:]
    assert not np.array_equal(first, second)
