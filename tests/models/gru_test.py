"""The recurrent network against a loop in NumPy, and as federated methods use it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import models, task
from permfl_jax.errors import InputError
from permfl_jax.models import ModelSpec
from permfl_jax.models.gru import GRU

NUM_CODES = 7


def spec(dataset="shakespeare", shape=(80,)):
    return ModelSpec(dataset=dataset, sample_shape=shape, num_classes=65)


def codes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, NUM_CODES, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def small():
    """A small network and its parameters, in float64 and none of them zero."""
    module = GRU(NUM_CODES, embedding=3, width=5)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    rng = np.random.default_rng(1)
    return module, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params["params"]
    )


def by_hand(params, x):
    """Logits of one sequence, step by step.

    r = σ(W_ir e + b_ir + W_hr h), z likewise, n = tanh(W_in e + b_in + r (W_hn h +
    b_hn)), h <- (1 - z) n + z h.
    """
    params = jax.tree.map(np.asarray, params)
    cell = params["cell"]

    def dense(name, value):
        layer = cell[name]
        return value @ layer["kernel"] + layer.get("bias", 0)

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    h = np.zeros(cell["hr"]["kernel"].shape[0])
    for code in x:
        e = params["embedding"][code]
        r = sigmoid(dense("ir", e) + dense("hr", h))
        z = sigmoid(dense("iz", e) + dense("hz", h))
        n = np.tanh(dense("in", e) + r * dense("hn", h))
        h = (1 - z) * n + z * h
    return params["output"]["weight"] @ h + params["output"]["bias"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_equals_a_numpy_loop_for_codes_of_any_type(small, dtype):
    module, params = small
    x = codes(4, 9)
    found = jax.jit(module.apply)({"params": params}, jnp.asarray(x.astype(dtype)))
    assert found.dtype == jnp.float64
    expected = [by_hand(params, sequence) for sequence in x]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_parameters_are_those_counted_by_hand_and_float32():
    """Codes 65·8; gates 3 (8·64 + 64) + 3·64·64 + 64; output 65·64 + 65."""
    module = models.build("gru", spec())
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 80), jnp.float32))
    leaves = jax.tree.leaves(params)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    hand = 65 * 8 + 3 * (8 * 64 + 64) + 3 * 64 * 64 + 64 + 65 * 64 + 65
    assert sum(leaf.size for leaf in leaves) == hand == 18_825


def test_a_device_under_vmap_computes_what_it_would_alone():
    """Loss and gradient, in float32, of a task with codes in bytes."""
    module = models.build("gru", spec())
    texts = task.classification(module, np.zeros(80, np.uint8))
    keys = jax.random.split(jax.random.key(3), 3)
    params = jax.jit(jax.vmap(texts.init))(keys)
    batch = {
        "x": jnp.asarray(codes(3, 4, 80)),
        "y": jnp.asarray(codes(3, 4, seed=1).astype(np.int32)),
    }

    def step(params, batch):
        return jax.value_and_grad(lambda p: texts.loss(p, batch).mean())(params)

    together = jax.jit(jax.vmap(step))(params, batch)
    for leaf in jax.tree.leaves(together):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert np.any(leaf != 0)
    one = jax.jit(step)
    for device in range(3):
        alone = one(*jax.tree.map(lambda leaf, d=device: leaf[d], (params, batch)))
        jax.tree.map(
            lambda a, b, d=device: np.testing.assert_allclose(
                a, b[d], rtol=2e-4, atol=2e-6
            ),
            alone,
            together,
        )
    # Before it has learnt anything, a guess is little better than even odds.
    np.testing.assert_allclose(together[0], np.log(65), rtol=0.1)


def test_gradient_is_that_of_finite_differences(small):
    """Along a random direction, central differences in float64."""
    module, params = small
    x, y = jnp.asarray(codes(2, 6)), jnp.asarray([1, 5])

    @jax.jit
    def loss(params):
        logits = module.apply({"params": params}, x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).sum()

    rng = np.random.default_rng(2)
    step = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    h = 1e-5
    ahead, behind = (
        loss(jax.tree.map(lambda p, s, by=sign * h: p + by * s, params, step))
        for sign in (1, -1)
    )
    slope = sum(
        jax.tree.leaves(jax.tree.map(jnp.vdot, jax.jit(jax.grad(loss))(params), step))
    )
    np.testing.assert_allclose((ahead - behind) / (2 * h), slope, rtol=1e-7)


def test_learns_to_repeat_the_last_code():
    """What a federated method asks of it: plain descent learns."""
    module = GRU(NUM_CODES, width=16)
    repeat = task.classification(module, np.zeros(5, np.uint8))
    x = codes(64, 5)
    batch = {"x": jnp.asarray(x), "y": jnp.asarray(x[:, -1].astype(np.int32))}
    gradient = jax.grad(lambda params: repeat.loss(params, batch).mean())

    @jax.jit
    def train(params):
        def step(params, _):
            return jax.tree.map(
                lambda p, g: p - jnp.float32(0.5) * g, params, gradient(params)
            ), None

        return jax.lax.scan(step, params, length=200)[0]

    trained = train(jax.jit(repeat.init)(jax.random.key(0)))
    assert jax.jit(repeat.metrics)(trained, batch)["accuracy"].mean() > 0.95


def test_is_not_random():
    assert not models.is_random(models.build("gru", spec()))


@pytest.mark.parametrize(
    ("dataset", "shape"),
    [
        ("mnist", (28, 28)),
        ("synthetic", (60,)),
        ("banking77", (1024,)),
        ("shakespeare", (80, 2)),
        ("shakespeare", ()),
    ],
)
def test_refuses_what_is_no_sequence_of_codes(dataset, shape):
    with pytest.raises(InputError) as caught:
        models.build("gru", spec(dataset, shape))
    assert str(caught.value) == (
        "--model=gru reads sequences of codes, of --dataset=shakespeare, and got "
        f"samples of shape {shape} of --dataset={dataset}: choose --model=mclr or dnn."
    )
