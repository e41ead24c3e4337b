"""On a mesh of chips, and in chunks, every method gives what it gives on one chip."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import thoroughly
from federations import classes_federation, mclr_loss, mclr_params, mesh_of

from permfl_jax import evaluate, placement, runner
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.types import Placement

NAMES = sorted(ALGORITHMS)
EQUAL, RAGGED = (2, 2, 2, 2), (1, 3, 2, 2)  # RAGGED too gives two rows of 4 devices
VERY_RAGGED = (3, 1, 4)  # one row
COUNTS = [3, 9, 4, 5, 6, 7, 2, 8]


def metrics_fn(params, batch):
    losses = mclr_loss(params, batch)
    return {"accuracy": (losses < 1).astype(losses.dtype), "loss": losses}


@functools.cache
def federation_of(sizes, dtype=np.float64):
    teams = np.repeat(np.arange(len(sizes)), sizes).tolist()
    _, train = classes_federation(0, COUNTS, teams, dtype=dtype)
    _, more = classes_federation(1, COUNTS, teams, dtype=dtype)
    test = [{k: v[: len(v) % 4] for k, v in device.items()} for device in more]
    return from_arrays(train, teams, test=test)


def build(name, federation, teams=None, devices=None, keep=True, weights="uniform"):
    sampler = Sampler.of(federation, teams, devices)
    options = {"team_steps": 2, "device_steps": 3, "batch_size": 4, "weights": weights}
    factory = ALGORITHMS[name].factory
    try:
        schedule = Schedule(**options, keep_personal=keep)
        return factory(mclr_loss, schedule, sampler)
    except InputError:  # it has nothing but personal models
        return factory(mclr_loss, Schedule(**options), sampler)


def trajectory(name, algorithm, federation, dtype=np.float64):
    """State, metrics and scores after three rounds; on the host."""
    key = jax.random.key(3)
    hparams = ALGORITHMS[name].hparams(device_lr=0.1).traced()
    start = runner.start(algorithm, mclr_params(1, dtype=dtype), federation)
    state, metrics = start, []
    for step in runner.run(algorithm, key, hparams, start, federation, 3):
        state = step[0]
        metrics.append(step[1])
    models = evaluate.models_of(algorithm, key, hparams, state, federation)
    row = evaluate.Evaluator(metrics_fn, federation).rows(models, ("test",))
    return {"state": placement.to_host(state), "metrics": metrics, "row": row}


# Sizes of teams, mesh, m, n, keeps personal models, chunk, weights.
CASES = [
    (EQUAL, (2, 2), None, None, True, None, "uniform"),
    (RAGGED, (2, 2), None, None, False, 1, "samples"),
    (RAGGED, (2, 2), 2, 2, True, 2, "samples"),
    (EQUAL, (4, 1), None, 1, False, None, "uniform"),
    (EQUAL, (4, 1), 1, None, True, 1, "uniform"),
    (VERY_RAGGED, (1, 4), None, 2, True, 1, "samples"),
    (VERY_RAGGED, (1, 4), 2, 1, False, 2, "uniform"),
    (RAGGED, None, 3, None, True, 2, "samples"),  # chunks without a mesh
]


# Every way for PerMFL; for the others two that with single precision below have all of
# it, but for rows of one chip. By --thorough every way also for those that do not use
# the shared averages, and three for the others.
EVERY_WAY = {"permfl", "al2gd", "demlearn", "ifca"}
SOME = [CASES[2], CASES[6]]
PAIRS = thoroughly.cases(
    [(n, c) for n in NAMES for c in (CASES if n in EVERY_WAY else [CASES[1], *SOME])],
    lambda pair: pair[1] in SOME or pair[0] == "permfl",
)


@pytest.mark.parametrize(("name", "case"), PAIRS, ids=str)
def test_a_mesh_and_chunks_change_nothing(name, case):
    sizes, shape, teams, devices, keep, chunk, weights = case
    federation = federation_of(sizes)
    algorithm = build(name, federation, teams, devices, keep, weights)
    mesh = None if shape is None else mesh_of(*shape)
    placed = placement.place(federation, mesh, chunk)
    alone = trajectory(name, algorithm, federation)
    spread = trajectory(name, algorithm, placed)
    assert alone["row"].keys() == spread["row"].keys()
    assert any(label.startswith("PM_adapted") for label in alone["row"]) == (
        algorithm.personalize is not None
    )
    chex.assert_trees_all_close(spread, alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_differs_by_rounding_alone(name):
    federation = federation_of(EQUAL, np.float32)
    algorithm = build(name, federation)
    alone = trajectory(name, algorithm, federation, np.float32)
    placed = placement.place(federation, mesh_of(2, 2))
    spread = trajectory(name, algorithm, placed, np.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(spread["state"], alone["state"])
    chex.assert_trees_all_close(spread, alone, rtol=1e-6, atol=1e-6)


def test_the_same_mesh_gives_the_same_bits():
    federation = placement.place(federation_of(RAGGED), mesh_of(2, 2))
    algorithm = build("permfl", federation)
    once, again = (trajectory("permfl", algorithm, federation) for _ in range(2))
    chex.assert_trees_all_equal(once, again)


def test_every_tier_stays_on_the_chips_that_compute_it():
    federation = placement.place(federation_of(EQUAL), mesh_of(2, 2))
    algorithm = build("permfl", federation)
    hparams = ALGORITHMS["permfl"].hparams().traced()
    state = runner.start(algorithm, mclr_params(1), federation)
    for after in (0, 1):
        parts = {
            "device": (state.device["bias"], 2),
            "team": (state.team["bias"], 2),
            "server": (state.server["bias"], 3),
            "cursor": (state.cursor, 2),
        }
        for tier, (array, rows) in parts.items():
            assert {len(s.data) for s in array.addressable_shards} == {rows}, tier
            assert len(array.sharding.device_set) == 4, (tier, after)
        state, _ = runner.advance(
            algorithm, 1, jax.random.key(0), hparams, state, federation
        )


@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (1, 4)])
def test_gradients_of_a_model_on_all_chips_are_not_summed_over_chips(shape):
    """The varying cast: `shard_map` would add up what every chip has on its own."""
    where = Placement(mesh_of(*shape))

    def own_gradient(model, samples):
        return jax.grad(lambda w: (w * samples).sum())(model)[None]

    specs = (placement.EVERYWHERE, placement.BY_DEVICE)
    spread = placement.per_chip(where, own_gradient, specs, placement.BY_DEVICE)
    gradients = jax.jit(spread)(jnp.float64(7), jnp.arange(1.0, 5.0))
    assert gradients.tolist() == [1, 2, 3, 4]


def test_sums_are_over_the_chips_of_a_row_or_over_all():
    where = Placement(mesh_of(2, 2))

    def sums(x):
        row, everyone = (
            placement.total(where, x, axes) for axes in ("device", ("team", "device"))
        )
        firsts = placement.first_on_chip(where, 10), placement.first_in_row(where, 10)
        return jnp.stack([row[0], everyone[0], *map(jnp.float64, firsts)])[None]

    spread = placement.per_chip(where, sums, placement.BY_DEVICE, placement.BY_DEVICE)
    assert jax.jit(spread)(jnp.arange(1.0, 5.0)).tolist() == [
        [3, 10, 0, 0],
        [3, 10, 10, 0],
        [7, 10, 20, 10],
        [7, 10, 30, 10],
    ]
