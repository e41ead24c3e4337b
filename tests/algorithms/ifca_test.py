"""IFCA against FedAvg, a plain loop, and groups of devices whose optima are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import (
    classes_federation,
    mclr_loss,
    mclr_params,
    quadratic_federation,
    quadratic_loss,
)
from oracles import Quadratics

from permfl_jax import keys, runner
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.algorithms.fedavg import fedavg
from permfl_jax.algorithms.ifca import HParams, first_choice, ifca
from permfl_jax.cohort import Cohort
from permfl_jax.errors import DivergenceError
from permfl_jax.federation import from_arrays
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

LR, DIM = 0.1, 3


def states(factory, loss, federation, params, rounds, seed=0, lr=LR, **options):
    """State and metrics before, and after each round; on the host."""
    devices = options.pop("devices_per_round", None)
    schedule = Schedule(**options)
    algorithm = factory(loss, schedule, Sampler.of(federation, None, devices))
    start = runner.start(algorithm, params, federation)
    yield jax.tree.map(np.array, start), {}
    key, hparams = jax.random.key(seed), HParams(device_lr=lr).traced()
    for state, metrics in runner.run(
        algorithm, key, hparams, start, federation, rounds
    ):
        yield jax.tree.map(np.array, state), metrics


def last(*args, **options):
    *_, (state, _) = states(*args, **options)
    return state


@pytest.mark.parametrize("weights", ["uniform", "samples"])
@pytest.mark.parametrize("devices", [None, 3])
def test_one_cluster_is_fedavg(weights, devices):
    federation, _ = classes_federation(0, [3, 9, 4, 5, 6], [0] * 5)
    options = {
        "team_steps": 2,
        "device_steps": 3,
        "batch_size": 4,
        "weights": weights,
        "devices_per_round": devices,
    }
    ours, theirs = (
        last(factory, mclr_loss, federation, mclr_params(1), 3, **options)
        for factory in (ifca, fedavg)
    )
    for one, other in zip(
        jax.tree.leaves(ours.extra), jax.tree.leaves(theirs.server), strict=True
    ):
        np.testing.assert_array_equal(one[0], other)
    np.testing.assert_array_equal(ours.cursor, theirs.cursor)


COUNTS, TEAMS, BATCH = [5, 1, 4, 3, 6, 2, 7], [0, 0, 0, 1, 1, 2, 2], 2


def many_quadratics(seed):
    """Devices of several samples, each a quadratic of its own."""
    rng = np.random.default_rng(seed)
    devices = []
    for count in COUNTS:
        root = rng.normal(size=(count, DIM, DIM))
        hessian = root @ root.transpose(0, 2, 1) / 3 + 0.2 * np.eye(DIM)
        devices.append({"hessian": hessian, "linear": rng.normal(size=(count, DIM))})
    return devices


class Loop:
    """IFCA, loop for loop, with `cyclic` batches."""

    def __init__(self, devices, start, seed):
        self.devices, self.seed = devices, seed
        self.clusters = np.tile(start, (max(TEAMS) + 1, 1))

    def batch(self, n, step):
        passes = -(-COUNTS[n] // BATCH)
        rows = slice(step % passes * BATCH, (step % passes + 1) * BATCH)
        return self.devices[n]["hessian"][rows], self.devices[n]["linear"][rows]

    def best(self, n, step):
        hessian, linear = self.batch(n, step)
        losses = [
            np.mean([0.5 * w @ h @ w for h in hessian]) - np.mean(linear @ w)
            for w in self.clusters
        ]
        return int(np.argmin(losses))

    def drawn(self, n):
        key = jax.random.fold_in(keys.draw_key(jax.random.key(self.seed)), n)
        return int(jax.random.randint(key, (), 0, len(self.clusters), jnp.int32))

    def train(self, n, step, theta, count):
        for s in range(step, step + count):
            hessian, linear = self.batch(n, s)
            theta = theta - LR * (hessian.mean(axis=0) @ theta - linear.mean(axis=0))
        return theta

    def round(self, t, cursor, acting, count, weight):
        """Who chose what."""
        choice = {n: self.best(n, cursor[n]) if t else self.drawn(n) for n in acting}
        new = self.clusters.copy()
        for j in set(choice.values()):
            group = [n for n in acting if choice[n] == j]
            ends = [self.train(n, cursor[n], self.clusters[j], count) for n in group]
            new[j] = np.average(ends, axis=0, weights=[weight[n] for n in group])
        self.clusters = new
        return choice


@pytest.mark.parametrize(("weights", "per_team"), [("uniform", None), ("samples", 1)])
def test_equals_the_plain_loop(weights, per_team):
    devices, start, seed = many_quadratics(3), np.full(DIM, 0.5), 4
    run = states(
        ifca,
        quadratic_loss,
        from_arrays(devices, TEAMS),
        jnp.asarray(start),
        6,
        seed,
        team_steps=1,
        device_steps=3,
        batch_size=BATCH,
        batching="cyclic",
        weights=weights,
        devices_per_round=per_team,
    )
    before, _ = next(run)
    loop = Loop(devices, start, seed)
    weight = COUNTS if weights == "samples" else [1] * len(COUNTS)
    used, emptied = set(), 0
    for t, (state, metrics) in enumerate(run):
        acting = np.flatnonzero(state.cursor != before.cursor)
        assert len(acting) == (len(COUNTS) if per_team is None else 3)
        choice = loop.round(t, before.cursor, acting, 3, weight)
        np.testing.assert_allclose(state.extra, loop.clusters, rtol=1e-10)
        held = np.bincount(list(choice.values()), [weight[n] for n in choice])
        share = metrics["device/largest_cluster"][0]
        assert share == pytest.approx(held.max() / held.sum(), rel=1e-12)
        used |= set(choice.values())
        emptied += len(set(choice.values())) < 3
        before = state
    assert len(used) > 1
    assert emptied > 0


def two_kinds(seed):
    """½|θ - c|² with c near (3, 3, 3) or (-3, -3, -3); both kinds in both teams."""
    rng = np.random.default_rng(seed)
    kind = np.array([0, 1, 1, 0, 1, 0, 1, 0, 1])
    centre = np.where(kind, 3.0, -3.0)[:, None] + 0.3 * rng.normal(size=(9, DIM))
    team = np.array([0] * 4 + [1] * 5)
    hessian = np.tile(np.eye(DIM), (9, 1, 1))
    return Quadratics(hessian, centre, team, np.ones(9), np.ones(2)), kind


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_kinds_of_devices_and_the_optimum_of_each(seed):
    """From where the mean of all is better for everyone: argmin alone never splits."""
    f, kind = two_kinds(seed)
    federation = quadratic_federation(f)
    state = last(
        ifca,
        quadratic_loss,
        federation,
        jnp.asarray([20.0, -20.0, 0.0]),
        60,
        seed,
        team_steps=2,
        device_steps=3,
        batch_size=None,
    )
    optima = np.stack([f.linear[kind == k].mean(axis=0) for k in (0, 1)])
    schedule = Schedule(batch_size=None)
    algorithm = ifca(quadratic_loss, schedule, Sampler.of(federation))
    own = algorithm.personalize(
        jax.random.key(seed),
        HParams().traced(),
        state,
        federation,
        Cohort.everyone(federation),
    )
    np.testing.assert_allclose(own, optima[kind], rtol=1e-10)


def test_who_is_scored_chooses_by_one_training_batch():
    devices = many_quadratics(5)
    federation = from_arrays(devices, TEAMS)
    schedule = Schedule(batch_size=BATCH, batching="cyclic")
    algorithm = ifca(quadratic_loss, schedule, Sampler.of(federation))
    clusters = np.random.default_rng(0).normal(size=(3, DIM))
    state = algorithm.init(jnp.zeros(DIM), len(COUNTS), 3)
    state = state._replace(extra=jnp.asarray(clusters))
    cohort = Cohort.everyone(federation)
    own = algorithm.personalize(
        jax.random.key(0), HParams().traced(), state, federation, cohort
    )
    loop = Loop(devices, np.zeros(DIM), 0)
    loop.clusters = clusters
    best = [loop.best(n, 0) for n in range(len(COUNTS))]
    assert len(set(best)) == 3
    np.testing.assert_array_equal(own, clusters[best])


def test_a_model_that_nobody_chose_keeps_its_bits():
    federation, _ = classes_federation(0, [4, 5, 6], [0, 1, 2])
    identity = jnp.arange(3, dtype=jnp.uint32)
    drawn = {
        seed: set(first_choice(jax.random.key(seed), identity, 3).tolist())
        for seed in range(6)
    }
    seed = next(s for s, chosen in drawn.items() if len(chosen) < 3)
    options = {"team_steps": 1, "device_steps": 2, "batch_size": None}
    run = states(ifca, mclr_loss, federation, mclr_params(1), 1, seed, **options)
    (before, _), (after, _) = run
    for old, new in zip(
        jax.tree.leaves(before.extra), jax.tree.leaves(after.extra), strict=True
    ):
        kept = [j for j in range(3) if (old[j] == new[j]).all()]
        assert kept == [j for j in range(3) if j not in drawn[seed]]


def test_first_choices_are_alike_and_a_device_s_own():
    key = jax.random.key(0)
    everyone = first_choice(key, jnp.arange(3000, dtype=jnp.uint32), 3)
    counts = np.bincount(everyone, minlength=3)
    # Within 4 standard deviations, of √(3000·⅓·⅔) = 26.
    assert abs(counts - 1000).max() < 104
    some = first_choice(key, jnp.asarray([7, 2999], jnp.uint32), 3)
    np.testing.assert_array_equal(some, everyone[np.array([7, 2999])])


def test_clusters_that_diverge_stop_the_run():
    """They are in no tier that the runner looks at: the loss tells."""
    f, _ = two_kinds(0)
    federation = quadratic_federation(f)
    options = {"team_steps": 1, "device_steps": 20, "batch_size": None, "lr": 30.0}
    with pytest.raises(DivergenceError, match="device loss"):
        last(ifca, quadratic_loss, federation, jnp.ones(DIM), 20, **options)


def test_every_cluster_is_sent_and_one_comes_back():
    sampler, hparams = Sampler((4, 5), None, 2), HParams()
    sent = ALGORITHMS["ifca"].traffic(hparams, Schedule(), sampler)
    assert sent == (4, 8, 0, 0)
