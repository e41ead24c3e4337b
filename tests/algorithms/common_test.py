"""What must hold for every method of the registry."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest
import thoroughly
from federations import classes_federation, mclr_loss, mclr_params

from permfl_jax import placement, runner
from permfl_jax.algorithms import ALGORITHMS, get
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

NAMES = sorted(ALGORITHMS)
COUNTS, TEAMS = [3, 9, 4, 5, 6], [0, 0, 1, 1, 1]
SCHEDULE = Schedule(team_steps=2, device_steps=3, batch_size=4)
# Teams and devices that act; by --thorough also all of them.
SAMPLED = [(name, *acting) for name in NAMES for acting in [(None, None), (1, 2)]]


@functools.cache  # what is compiled for one test serves the next
def setup(name, schedule=SCHEDULE, teams_per_round=None, devices_per_round=None):
    federation, _ = classes_federation(0, COUNTS, TEAMS)
    sampler = Sampler.of(federation, teams_per_round, devices_per_round)
    algorithm = ALGORITHMS[name].factory(mclr_loss, schedule, sampler)
    hparams = ALGORITHMS[name].hparams(device_lr=0.1).traced()
    return algorithm, hparams, federation


def start(algorithm, federation):
    return runner.start(algorithm, mclr_params(1), federation)


def final(algorithm, hparams, federation, seed=0, rounds=4, rounds_per_call=1):
    *_, (state, _) = runner.run(
        algorithm,
        jax.random.key(seed),
        hparams,
        start(algorithm, federation),
        federation,
        rounds,
        rounds_per_call,
    )
    return state


def test_names_are_those_of_the_factories():
    assert all(name == entry.factory.__name__ for name, entry in ALGORITHMS.items())


def test_an_unknown_name_lists_the_known():
    with pytest.raises(
        InputError, match="choose from permfl, permfl_auto, fedavg, perfedavg"
    ):
        get("permlf")


@pytest.mark.parametrize("name", NAMES)
def test_hyper_parameters_are_numbers_with_defaults(name):
    for field in dataclasses.fields(ALGORITHMS[name].hparams):
        assert field.default is None or isinstance(field.default, float)
    chex.assert_tree_all_finite(ALGORITHMS[name].hparams().traced())


@pytest.mark.parametrize(
    ("name", "teams", "devices"),
    thoroughly.cases(SAMPLED, lambda case: case[1] is not None),
)
def test_the_state_keeps_its_structure_and_the_input_its_values(name, teams, devices):
    algorithm, hparams, federation = setup(name, SCHEDULE, teams, devices)
    before = algorithm.init(mclr_params(1), len(COUNTS), 2)
    step, key = jax.jit(algorithm.round), jax.random.key(0)
    once, metrics = step(key, hparams, before, federation)
    again, _ = step(key, hparams, before, federation)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, once)
    chex.assert_trees_all_equal(once, again)
    assert int(once.round) == 1
    assert all("/" in name and value.shape == () for name, value in metrics.items())
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), once.device, before.device)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("name", "teams", "devices", "calls"),
    thoroughly.cases(
        [(*case, calls) for case in SAMPLED for calls in (2, 4)],
        lambda case: case[1] is not None and case[3] == 2,
    ),
)
def test_rounds_per_call_changes_nothing(name, teams, devices, calls):
    algorithm, hparams, federation = setup(name, SCHEDULE, teams, devices)
    one = final(algorithm, hparams, federation, rounds_per_call=1)
    some = final(algorithm, hparams, federation, rounds_per_call=calls)
    chex.assert_trees_all_equal(one, some)


@pytest.mark.parametrize("name", NAMES)
def test_resuming_at_round_2_changes_nothing(name):
    algorithm, hparams, federation = setup(name, SCHEDULE, 1, 2)
    halfway = final(algorithm, hparams, federation, rounds=2)
    key = jax.random.key(0)
    *_, (resumed, _) = runner.run(algorithm, key, hparams, halfway, federation, 2)
    chex.assert_trees_all_equal(resumed, final(algorithm, hparams, federation))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_other_seed_other_bits(name):
    algorithm, hparams, federation = setup(name)
    one, same, other = (
        final(algorithm, hparams, federation, seed=s) for s in (0, 0, 1)
    )
    chex.assert_trees_all_equal(one, same)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_one_trace_for_any_values_seeds_and_rounds(name):
    algorithm, _, federation = setup(name)
    traces = []

    def counted(*args):
        traces.append(1)
        return algorithm.round(*args)

    counting = algorithm._replace(round=counted)
    hparams_class = ALGORITHMS[name].hparams
    floats = [
        f.name for f in dataclasses.fields(hparams_class) if f.default is not None
    ]
    for seed, rounds, scale in ((0, 3, 1.0), (1, 5, 0.5), (2, 1, 0.25)):
        values = {f: scale * getattr(hparams_class(), f) for f in floats}
        final(counting, hparams_class(**values).traced(), federation, seed, rounds)
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_call_moves_nothing_between_host_and_device(name):
    algorithm, hparams, federation = setup(name)
    key, state = jax.random.key(0), start(algorithm, federation)
    with jax.transfer_guard("disallow"):
        runner.advance(algorithm, 2, key, hparams, state, federation)


@pytest.mark.parametrize("name", NAMES)
def test_the_program_does_not_grow_with_the_federation(name):
    """Equations in the traced round, for other M, N, K, L: no unrolled loop."""

    def equations(teams, counts, team_steps, device_steps):
        federation, _ = classes_federation(0, counts, teams)
        schedule = Schedule(
            team_steps=team_steps, device_steps=device_steps, batch_size=4
        )
        sampler = Sampler.of(federation)
        algorithm = ALGORITHMS[name].factory(mclr_loss, schedule, sampler)
        hparams = ALGORITHMS[name].hparams().traced()
        state = algorithm.init(mclr_params(1), len(counts), len(set(teams)))
        traced = jax.make_jaxpr(algorithm.round)(
            jax.random.key(0), hparams, state, federation
        )
        return count_equations(traced.jaxpr)

    small = equations([0, 1], [5, 9], 1, 1)
    assert small > 50
    assert equations([0, 0, 0, 1, 2, 3, 3], [5] * 7, 6, 9) == small


def count_equations(jaxpr):
    inner = [
        sub.jaxpr if hasattr(sub, "jaxpr") else sub
        for equation in jaxpr.eqns
        for sub in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        )
        if hasattr(sub, "eqns") or hasattr(sub, "jaxpr")
    ]
    return len(jaxpr.eqns) + sum(count_equations(sub) for sub in inner)


@pytest.mark.parametrize("name", NAMES)
def test_cost_follows_participation(name):
    """XLA's own count: 10 % of the devices cost at most 15 % of the operations."""

    def flops(devices_per_round):
        return round_flops(name, [20] * 80, np.repeat([0, 1], 40), devices_per_round)

    assert flops(4) <= 0.15 * flops(None)


@pytest.mark.parametrize(
    "name", thoroughly.cases(NAMES, lambda name: name in ("permfl", "fedavg", "ifca"))
)
def test_unequal_teams_cost_as_much_as_equal_ones(name):
    counts = [20] * 40
    equal = round_flops(name, counts, np.repeat(range(4), 10))
    unequal = round_flops(name, counts, np.repeat(range(4), [2, 4, 8, 26]))
    assert unequal == pytest.approx(equal, rel=0.02)


def round_flops(name, counts, teams, devices_per_round=None):
    compiled = compiled_round(name, counts, teams, devices_per_round)
    return compiled.cost_analysis()["flops"]


def compiled_round(name, counts, teams, devices_per_round=None, batch_size=16):
    federation, _ = classes_federation(0, counts, [int(t) for t in teams], dim=64)
    # All devices at once: XLA counts the body of a loop once.
    federation = placement.place(federation, device_chunk=len(counts))
    schedule = Schedule(team_steps=2, device_steps=5, batch_size=batch_size)
    sampler = Sampler.of(federation, None, devices_per_round)
    algorithm = ALGORITHMS[name].factory(mclr_loss, schedule, sampler)
    state = algorithm.init(mclr_params(1, dim=64), len(counts), sampler.num_teams)
    arguments = (
        jax.random.key(0),
        ALGORITHMS[name].hparams().traced(),
        state,
        federation,
    )
    return jax.jit(algorithm.round).lower(*arguments).compile()


@pytest.mark.parametrize(
    "batch_size", thoroughly.cases([16, None], lambda size: size is not None)
)
@pytest.mark.parametrize("name", NAMES)
def test_memory_follows_the_samples_really_held(name, batch_size):
    """Lognormal(2) sizes: working memory stays far below padding to the largest."""
    rng = np.random.default_rng(0)
    counts = np.maximum(1, (8 * rng.lognormal(0, 2, 64)).astype(int)).tolist()
    compiled = compiled_round(name, counts, np.repeat(range(4), 16), None, batch_size)
    sample = 64 * 8 + 4
    memory = compiled.memory_analysis()
    models = 64 * (64 * 3 + 3) * 8
    batches = 64 * min(max(counts), batch_size or 512) * sample
    # A few copies of the models (θ, w per device, gradients) and of one batch.
    assert memory.temp_size_in_bytes < 8 * models + 4 * batches
    padded = 64 * max(counts) * sample
    assert sum(counts) * sample < 0.2 * padded
