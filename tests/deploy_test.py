"""Newcomers do what devices and teams of the run did; models predict the same."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import deploy, runner
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

SIZES, TEAMS = (5, 9, 4, 7, 6), (0, 0, 1, 1, 1)
CLASSES, FEATURES = 3, 4
HPARAMS = {
    "device_lr": 0.1,
    "team_lr": 0.3,
    "server_lr": 0.7,
    "device_prox": 0.8,
    "team_prox": 1.5,
}


def devices(seed=0, sizes=SIZES):
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.normal(size=(n, FEATURES)), "y": rng.integers(0, CLASSES, n)}
        for n in sizes
    ]


def apply(params, x):
    return x @ params["kernel"] + params["bias"][None]


def loss(params, batch):
    logits = jax.nn.log_softmax(apply(params, batch["x"]))
    return -jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]


def model(seed=0):
    rng = np.random.default_rng([7, seed])
    return {
        "kernel": jnp.asarray(rng.normal(size=(FEATURES, CLASSES))),
        "bias": jnp.asarray(rng.normal(size=CLASSES)),
    }


def gradient(params, x, y):
    """Of softmax regression, by hand."""
    logits = x @ params["kernel"] + params["bias"]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return {"kernel": x.T @ p / len(y), "bias": p.mean(axis=0)}


def same(one, other, rtol=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13),
        one,
        other,
    )


def run(schedule, rounds, seed=3, **participation):
    """States before round 1 and after each round of PerMFL."""
    federation = from_arrays(devices(), TEAMS)
    method = ALGORITHMS["permfl"]
    hparams = method.hparams(**HPARAMS).traced()
    sampler = Sampler.of(federation, **participation)
    algorithm = method.factory(loss, schedule, sampler)
    key = jax.random.key(seed)
    states = [runner.start(algorithm, model(), federation)]
    for _ in range(rounds):
        copied = jax.tree.map(jnp.copy, states[-1])
        states.append(runner.advance(algorithm, 1, key, hparams, copied, federation)[0])
    return algorithm, key, hparams, federation, states


@pytest.mark.parametrize("anchored_elsewhere", [False, True])
def test_personalising_is_a_plain_loop_of_proximal_steps(anchored_elsewhere):
    (samples,) = devices(1, (8,))
    start = model()
    anchor = model(1) if anchored_elsewhere else None
    theta = jax.tree.map(np.asarray, start)
    pulled_to = jax.tree.map(np.asarray, start if anchor is None else anchor)
    for _ in range(6):
        grads = gradient(theta, samples["x"], samples["y"])
        theta = {
            k: theta[k] - 0.3 * (grads[k] + 0.7 * (theta[k] - pulled_to[k]))
            for k in theta
        }
    got = deploy.personalise(
        loss,
        start,
        samples,
        steps=6,
        lr=0.3,
        prox=0.7,
        anchor=anchor,
        key=jax.random.key(0),
    )
    same(got, theta)


def test_personalising_for_long_ends_in_the_closed_form_of_the_prox():
    """argmin ½(θ - c)² + λ/2 (θ - w)² is (c + λw) / (1 + λ), c the mean."""
    centre, w, lam = np.array([1.0, 2.0, 6.0]), 5.0, 0.5
    got = deploy.personalise(
        lambda theta, batch: 0.5 * (theta - batch["c"]) ** 2,
        jnp.asarray(w),
        {"c": centre},
        steps=200,
        lr=0.3,
        prox=lam,
        key=jax.random.key(0),
    )
    np.testing.assert_allclose(got, (centre.mean() + lam * w) / (1 + lam), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("number", [1, 4])
def test_a_new_device_with_the_samples_of_one_is_adapted_to_the_same(
    batch_size, number
):
    """The identity of PerMFL: PM_adapted, mini-batches too, from w and nothing else."""
    schedule = Schedule(
        team_steps=2, device_steps=5, batch_size=batch_size, keep_personal=False
    )
    algorithm, key, hparams, federation, states = run(schedule, 2)
    everyone = Cohort.everyone(federation)
    adapted = algorithm.personalize(key, hparams, states[-1], federation, everyone)
    expected = jax.tree.map(lambda x: x[number], adapted)
    w = jax.tree.map(lambda x: x[TEAMS[number]], states[-1].team)
    own = devices()[number]
    by_hand = deploy.personalise(
        loss,
        w,
        own,
        steps=5,
        lr=HPARAMS["device_lr"],
        prox=HPARAMS["device_prox"],
        batch_size=batch_size,
        key=key,
        number=number,
    )
    by_method = deploy.personalise_by(
        algorithm, hparams, w, own, key=key, number=number
    )
    same(by_hand, expected)
    same(by_method, expected)


@pytest.mark.parametrize(("batch_size", "round_"), [(None, 3), (3, 1)])
@pytest.mark.parametrize("team", [0, 1])
def test_a_new_team_with_the_devices_of_one_gets_its_model(batch_size, round_, team):
    """Within a round teams meet only in x: w and θ of round t come from x of t - 1.

    With mini-batches only of the first round, in which cursors are 0.
    """
    schedule = Schedule(team_steps=3, device_steps=2, batch_size=batch_size)
    _, key, hparams, _, states = run(schedule, round_)
    members = [d for d, own in enumerate(TEAMS) if own == team]
    made = deploy.new_team(
        ALGORITHMS["permfl"].factory,
        loss,
        schedule,
        hparams,
        states[round_ - 1].server,
        [devices()[d] for d in members],
        key=key,
        numbers=members,
    )
    same(made.team, jax.tree.map(lambda x: x[team], states[round_].team))
    rows = np.array(members)
    same(made.device, jax.tree.map(lambda x: x[rows], states[round_].device))


def test_a_method_without_teams_makes_no_new_team():
    method = ALGORITHMS["fedavg"]
    with pytest.raises(InputError, match="no team models"):
        deploy.new_team(
            method.factory,
            loss,
            Schedule(team_steps=1, device_steps=1),
            method.hparams().traced(),
            model(),
            devices(),
            key=jax.random.key(0),
        )


def test_a_new_device_needs_a_sample():
    with pytest.raises(InputError, match="no sample"):
        deploy.personalise(
            loss,
            model(),
            {"x": np.zeros((0, FEATURES)), "y": np.zeros(0, int)},
            steps=1,
            lr=0.1,
            key=jax.random.key(0),
        )


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 11])
def test_predictions_do_not_hang_on_the_batches(count):
    x = np.random.default_rng(0).normal(size=(count, FEATURES))
    params = jax.tree.map(np.asarray, model())
    got = deploy.predict(apply, params, x, batch_size=4)
    assert got.shape == (count, CLASSES)
    np.testing.assert_allclose(got, x @ params["kernel"] + params["bias"], rtol=1e-12)


def test_a_model_has_the_names_of_a_checkpoint():
    assert set(deploy.named({"device": model()})) == {"device/kernel", "device/bias"}


READER = """
import json, sys
import numpy as np
from jax import export
function = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
for n in (1, 5):
    logits = function.call(np.arange(4 * n, dtype=np.uint8).reshape(n, 4))
    print(json.dumps(np.asarray(logits).tolist()))
assert "permfl_jax" not in sys.modules
"""


def test_an_exported_model_is_the_same_without_this_package(tmp_path):
    if importlib.util.find_spec("flatbuffers") is None:
        pytest.skip("flatbuffers is not installed")
    params = jax.tree.map(lambda x: x.astype(jnp.float32), model())

    def scaled(params, x):
        return apply(params, x.astype(jnp.float32) * (1 / 16))

    one = jax.ShapeDtypeStruct((FEATURES,), np.uint8)
    content = deploy.serialise(scaled, params, one)
    (tmp_path / "model").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "model")],
        cwd=pathlib.Path(tmp_path),
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for n, line in zip((1, 5), done.stdout.splitlines(), strict=True):
        x = np.arange(4 * n, dtype=np.uint8).reshape(n, 4)
        expected = deploy.predict(scaled, params, x)
        np.testing.assert_allclose(json.loads(line), expected, rtol=1e-6)


def test_without_flatbuffers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"flatbuffers.*permfl-jax\[export\]"):
        deploy.serialise(apply, model(), jax.ShapeDtypeStruct((FEATURES,), np.float32))
