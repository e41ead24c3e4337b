"""The benchmark's peers compute what we compute, so that timing them is fair."""

import functools
import itertools
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest

from experiments import peers
from experiments.peers import jax_loop
from permfl_jax import evaluate, models, runner, task
from permfl_jax.algorithms.permfl import HParams, permfl
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.models.cnn import PLANS, Plan
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

TEAMS = (0, 0, 1, 1, 1)
COUNTS, TEST_COUNTS = (3, 9, 9, 3, 9), (30, 70, 0, 25, 64)
ROUNDS = 2
# Sides differ, and there are channels, so that no order of axes can be mistaken.
SHAPE = (9, 8, 3)
MODELS = {
    "mclr": {"model": "mclr", "dataset": "mnist"},
    "dnn": {"model": "dnn", "dataset": "synthetic"},
    "cnn": {"model": "cnn", "dataset": "mnist"},
    "padded_cnn": {"model": "cnn", "dataset": "fashion_mnist"},
}


class Problem(NamedTuple):
    setting: peers.Setting
    task: task.Task
    params: dict
    train: list
    test: list


@pytest.fixture(params=peers.PEERS)
def build(request):
    """One peer; PyTorch's are skipped where it is not installed."""
    if request.param.startswith("pytorch"):
        pytest.importorskip("torch", reason="PyTorch is not installed (extra [bench])")
    return peers.PEERS[request.param]


def samples(rng, device, count):
    """Two classes per device, told apart by the brightness of a row."""
    y = (device + rng.integers(0, 2, count)).astype(np.int32)
    x = rng.integers(0, 150, (count, *SHAPE), dtype=np.uint8)
    x[np.arange(count), y] += 60
    return {"x": x, "y": y}


@functools.cache
def problem(name, batch_size=None, copies=False):
    """Five devices; with `copies`, all samples of a device are the same one."""
    setting = peers.Setting(
        **MODELS[name],
        hidden=(20,),
        num_classes=6,
        batch_size=batch_size,
        team_steps=2,
        device_steps=3,
        device_lr=0.2,
        team_lr=0.4,
        server_lr=0.5,
        device_prox=1.5,
        team_prox=0.6,
        scale=2 / 255,
        offset=-1.0,
    )
    rng = np.random.default_rng(0)
    train = [samples(rng, d, n) for d, n in enumerate(COUNTS)]
    if copies:
        train = [
            {k: np.repeat(v[:1], len(v), axis=0) for k, v in device.items()}
            for device in train
        ]
    test = [samples(rng, d, n) for d, n in enumerate(TEST_COUNTS)]
    spec = models.ModelSpec(
        dataset=setting.dataset,
        sample_shape=SHAPE,
        num_classes=setting.num_classes,
        hidden=setting.hidden,
    )
    classify = task.classification(
        models.build(setting.model, spec),
        train[0]["x"][0],
        scale=setting.scale,
        offset=setting.offset,
    )
    params = jax.jit(classify.init)(jax.random.key(0))
    return Problem(setting, classify, params, train, test)


@functools.cache
def ours(name, copies=False):
    """The state after some full-batch rounds of ours, and its scores."""
    setting, classify, params, train, test = problem(name, None, copies)
    data = from_arrays(train, TEAMS, test=test)
    schedule = Schedule(
        team_steps=setting.team_steps,
        device_steps=setting.device_steps,
        batch_size=None,
    )
    algorithm = permfl(classify.loss, schedule, Sampler.of(data))
    hparams = HParams(
        device_lr=setting.device_lr,
        team_lr=setting.team_lr,
        server_lr=setting.server_lr,
        device_prox=setting.device_prox,
        team_prox=setting.team_prox,
    ).traced()
    key = jax.random.key(1)
    state = runner.start(algorithm, params, data)
    *_, (state, _) = runner.run(algorithm, key, hparams, state, data, ROUNDS)
    scored = evaluate.models_of(algorithm, key, hparams, state, data)
    row = evaluate.Evaluator(classify.metrics, data).rows(scored, ["test"])
    return state, {label: row[f"{label}/accuracy"] for label in ("PM", "TM", "GM")}


def assert_moved_alike(start, end, peer_end, tolerance):
    """Both went from `start` to the same place, as measured by the way they went."""
    start, end = (map(np.asarray, jax.tree.leaves(tree)) for tree in (start, end))
    for x, ours_, theirs in zip(start, end, peer_end, strict=True):
        assert theirs.shape == x.shape
        assert theirs.dtype == np.float32
        way = np.linalg.norm(ours_ - x)
        # The way must be far above the rounding of float32 for this to say anything.
        assert way > 0.01 * np.linalg.norm(x)
        assert np.linalg.norm(ours_ - theirs) <= tolerance * way


@pytest.mark.parametrize("name", MODELS)
def test_a_peer_starts_from_our_model(build, name):
    setting, _, params, train, test = problem(name)
    peer = build(setting, params, train, test, TEAMS)
    for theirs, leaf in zip(peer.server(), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(theirs, leaf)


@pytest.mark.parametrize("name", MODELS)
def test_full_batch_rounds_and_accuracies_are_ours(build, name):
    setting, _, params, train, test = problem(name)
    peer = build(setting, params, train, test, TEAMS)
    for _ in range(ROUNDS):
        peer.one_round()
    state, accuracies = ours(name)
    # In a network, rounding may switch a ReLU or a pool that is undecided.
    tolerance = 1e-5 if name == "mclr" else 1e-3
    assert_moved_alike(params, state.server, peer.server(), tolerance)
    assert peer.evaluate() == pytest.approx(accuracies, abs=1e-6)


def test_the_three_accuracies_differ():
    """Else a peer could score one tier in place of another, and nobody would see."""
    assert len(set(ours("mclr")[1].values())) == 3


@pytest.mark.parametrize("batch_size", [4, 1])
def test_mini_batch_rounds_of_equal_samples_are_full_batch_rounds(build, batch_size):
    """Whatever a batch picks and however small the last one is, its mean stays."""
    setting, _, params, train, test = problem("mclr", batch_size, copies=True)
    peer = build(setting, params, train, test, TEAMS)
    for _ in range(ROUNDS):
        peer.one_round()
    state, _ = ours("mclr", copies=True)
    assert_moved_alike(params, state.server, peer.server(), 1e-5)


@pytest.mark.parametrize("name", ["dnn", "cnn"])
def test_mini_batch_rounds_run_and_are_scored(build, name):
    setting, _, params, train, test = problem(name, batch_size=4)
    peer = build(setting, params, train, test, TEAMS)
    peer.one_round()
    full = jax.tree.leaves(params)
    assert all((a != b).any() for a, b in zip(peer.server(), full, strict=True))
    accuracies = peer.evaluate()
    assert accuracies.keys() == {"PM", "TM", "GM"}
    assert all(0 <= value <= 1 for value in accuracies.values())


@pytest.mark.parametrize("name", ["mclr", "cnn"])
def test_jax_steps_are_the_same_in_one_call_or_in_many(name, monkeypatch):
    """On mini-batches and with dropout: equal draws, equal models."""
    plan = Plan((2,), window=2, padding=0, stride=1, hidden=(6,), dropout=0.5)
    monkeypatch.setitem(PLANS, "mnist", plan)
    setting, _, params, train, test = problem.__wrapped__(name, batch_size=4)
    many, one = (
        peers.PEERS[key](setting, params, train, test, TEAMS)
        for key in ("jax_loop", "jax_scan")
    )
    for peer in (many, one):
        for _ in range(ROUNDS):
            peer.one_round()
    assert_moved_alike(params, many.server(), one.server(), 1e-4)


def test_the_jax_loop_hands_over_each_batch_by_itself(monkeypatch):
    shapes, cut = [], jax_loop.cut

    def counted(samples, places):
        shapes.append(places.shape)
        return cut(samples, places)

    monkeypatch.setattr(jax_loop, "cut", counted)
    setting, _, params, train, test = problem("mclr", 4)
    exchanges = len(train) * setting.team_steps
    for key in ("jax_loop", "jax_scan"):
        peers.PEERS[key](setting, params, train, test, TEAMS).one_round()
    one_by_one = [(4,)] * exchanges * setting.device_steps
    assert shapes == one_by_one + [(setting.device_steps, 4)] * exchanges


def test_dropout_runs_while_training_only(build, monkeypatch):
    """Full batches are not random, so dropout alone can move the model elsewhere."""
    servers = []
    for rate in (0.5, 0.0):
        plan = Plan((2,), window=2, padding=0, stride=1, hidden=(6,), dropout=rate)
        monkeypatch.setitem(PLANS, "mnist", plan)
        setting, _, params, train, test = problem.__wrapped__("cnn")
        train = [{k: v[:3] for k, v in device.items()} for device in train]
        peer = build(setting, params, train, test, TEAMS)
        assert peer.evaluate() == peer.evaluate()
        peer.one_round()
        assert peer.evaluate() == peer.evaluate()
        servers.append(np.concatenate([leaf.ravel() for leaf in peer.server()]))
    assert abs(servers[0] - servers[1]).max() > 1e-3


def rows_of_passes(batches, count, number):
    """The rows that `number` passes over `count` samples gave, one list per pass."""
    rows = np.concatenate([next(batches) for _ in range(number)])
    return rows[: len(rows) // count * count].reshape(-1, count)


def test_lean_passes_visit_every_sample_once_and_differ():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from experiments.peers import pytorch_lean

    torch.manual_seed(0)
    labels = torch.arange(10)
    stream = pytorch_lean.stream(labels[:, None].float(), labels, 4)
    batches = list(itertools.islice(stream, 6))
    assert [len(y) for _, y in batches] == [4, 4, 2, 4, 4, 2]
    assert all((x[:, 0] == y).all() for x, y in batches)
    passes = rows_of_passes((y.numpy() for _, y in batches), 10, 6)
    np.testing.assert_array_equal(np.sort(passes), [range(10)] * 2)
    assert len({(*range(10),), *map(tuple, passes)}) == 3


def test_jax_passes_visit_every_sample_once_and_differ():
    batches = jax_loop.positions(10, 4, np.random.default_rng(0))
    passes = rows_of_passes(batches, 10, 5)
    np.testing.assert_array_equal(np.sort(passes), [range(10)] * 2)
    assert len({(*range(10),), *map(tuple, passes)}) == 3
    wide = next(jax_loop.positions(3, 7, np.random.default_rng(0)))
    np.testing.assert_array_equal(np.bincount(wide).clip(2, 3), np.bincount(wide))


@pytest.mark.parametrize("name", ["pytorch", "pytorch_lean"])
def test_without_torch_one_sentence_says_what_to_install(monkeypatch, name):
    for module in (name, "torch_models"):
        monkeypatch.delitem(sys.modules, f"experiments.peers.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    setting, _, params, train, test = problem("mclr")
    with pytest.raises(InputError, match=r"pip install -e \.\[bench\]"):
        peers.PEERS[name](setting, params, train, test, TEAMS)
