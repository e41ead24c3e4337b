"""The registry's own models in float32, full batch, against NumPy loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from federations import gains, run_permfl

from permfl_jax import models, task
from permfl_jax.federation import from_arrays

NUMBERS = {"alpha": 0.05, "lam": 0.5, "a": 0.1, "b": 0.2, "g": 0.7}
DIM, CLASSES = 12, 4


def mclr_gradient(devices):
    def gradient(j, step, theta):
        weight, bias = theta[: DIM * CLASSES].reshape(CLASSES, DIM), theta[-CLASSES:]
        parts = oracles.mclr_gradient(weight, bias, devices[j]["x"], devices[j]["y"])
        return np.concatenate([part.ravel() for part in parts])

    return gradient


def dnn_gradient(devices, width=6):
    shapes = [(width, DIM), (width,), (CLASSES, width), (CLASSES,)]
    ends = np.cumsum([np.prod(shape) for shape in shapes])

    def gradient(j, step, theta):
        params = [
            part.reshape(shape)
            for part, shape in zip(np.split(theta, ends[:-1]), shapes, strict=True)
        ]
        parts = oracles.dnn_gradient(params, devices[j]["x"], devices[j]["y"])
        return np.concatenate([part.ravel() for part in parts])

    return gradient


# In the order of the oracle's flat vector.
LEAVES = {
    "mclr": [("linear", "weight"), ("linear", "bias")],
    "dnn": [
        ("hidden_0", "weight"),
        ("hidden_0", "bias"),
        ("output", "weight"),
        ("output", "bias"),
    ],
}


def flat(name, params, rows):
    """`[rows, P]` from leaves `[rows, ...]`."""
    leaves = [np.asarray(params[layer][leaf]) for layer, leaf in LEAVES[name]]
    return np.concatenate([leaf.reshape(rows, -1) for leaf in leaves], axis=1)


@pytest.mark.parametrize("name", ["mclr", "dnn"])
@pytest.mark.parametrize("sizes", [(2, 2), (1, 4, 2), (5,)])
def test_tiers_follow_the_loop_to_1e_5(name, sizes):
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 40, sum(sizes))
    devices = [
        {
            "x": rng.normal(size=(n, DIM)).astype(np.float32),
            "y": rng.integers(0, CLASSES, n).astype(np.int32),
        }
        for n in counts
    ]
    team = np.repeat(np.arange(len(sizes)), sizes)
    spec = models.ModelSpec(
        dataset="none", sample_shape=(DIM,), num_classes=CLASSES, hidden=(6,)
    )
    classify = task.classification(models.build(name, spec), devices[0]["x"][0])
    params = classify.init(jax.random.key(3))
    state = run_permfl(
        classify.loss,
        from_arrays(devices, team.tolist()),
        params,
        gains(**NUMBERS),
        3,
        team_steps=3,
        device_steps=4,
    )
    assert state.server[LEAVES[name][0][0]]["weight"].dtype == jnp.float32
    make = {"mclr": mclr_gradient, "dnn": dnn_gradient}[name]
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    x, w, theta, _ = oracles.permfl_loop(
        make(devices),
        flat(name, stacked, 1)[0].astype(np.float64),
        team,
        **NUMBERS,
        rounds=3,
        team_steps=3,
        device_steps=4,
    )
    for tier, expected in (
        (jax.tree.map(lambda leaf: leaf[None], state.server), x[None]),
        (state.team, w),
        (state.device, theta),
    ):
        got = flat(name, tier, len(expected))
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert error < 1e-5
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
