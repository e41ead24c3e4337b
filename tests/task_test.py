"""Losses and scores against NumPy; what a loss may look like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import classes_federation, mclr_loss, mclr_params

from permfl_jax import batches, keys, local, task
from permfl_jax.cohort import Cohort
from permfl_jax.errors import InputError
from permfl_jax.federation import from_arrays
from permfl_jax.gradient import takes_key, weighted_sum
from permfl_jax.models.mclr import MCLR
from permfl_jax.rules import Rates
from permfl_jax.schedule import Schedule


def batch_of(seed, number=9, dim=6, num_classes=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.normal(size=(number, dim)).astype(dtype)),
        "y": jnp.asarray(rng.integers(0, num_classes, number), jnp.int32),
    }


def params_of(seed, dim=6, num_classes=4, dtype=np.float64):
    return {"linear": mclr_params(seed, dim, num_classes, dtype)}


def cross_entropy(params, x, y):
    layer = jax.tree.map(np.asarray, params["linear"])
    logits = x @ layer["weight"].T + layer["bias"]
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(prob[np.arange(len(y)), y]), logits.argmax(axis=1)


def norm_squared(params):
    return sum(np.sum(np.asarray(x) ** 2) for x in jax.tree.leaves(params))


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_loss_and_metrics_equal_numpy(l2):
    mclr = task.classification(MCLR(4), np.zeros(6), l2=l2)
    batch, params = batch_of(0), params_of(1)
    losses, guess = cross_entropy(
        params, np.asarray(batch["x"]), np.asarray(batch["y"])
    )
    expected = losses + l2 / 2 * norm_squared(params)
    np.testing.assert_allclose(jax.jit(mclr.loss)(params, batch), expected, rtol=1e-12)
    scores = jax.jit(mclr.metrics)(params, batch)
    assert scores.keys() == {"accuracy", "loss"}
    np.testing.assert_allclose(scores["loss"], expected, rtol=1e-12)
    np.testing.assert_array_equal(scores["accuracy"], guess == np.asarray(batch["y"]))


def test_l2_adds_itself_to_the_gradient_and_to_the_curvature():
    l2, batch, params = 0.3, batch_of(2), params_of(3)
    plain, penalised = (
        task.classification(MCLR(4), np.zeros(6), l2=value) for value in (0.0, l2)
    )

    def gradient(one):
        return jax.jit(jax.grad(lambda p: one.loss(p, batch).mean()))(params)

    jax.tree.map(
        lambda with_, without, p: np.testing.assert_allclose(
            with_, without + l2 * p, rtol=1e-12
        ),
        gradient(penalised),
        gradient(plain),
        params,
    )


def test_init_depends_on_the_key_and_has_the_shape_of_a_sample():
    mclr = task.classification(MCLR(4), np.zeros((2, 3), np.uint8))
    init = jax.jit(mclr.init)
    one, same, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert one["linear"]["weight"].shape == (4, 6)
    assert one["linear"]["weight"].dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["linear"]["weight"], other["linear"]["weight"])


def test_small_integers_are_scaled_as_they_are_seen():
    x = np.random.default_rng(4).integers(0, 256, (9, 6)).astype(np.uint8)
    batch = batch_of(4) | {"x": jnp.asarray(x)}
    params = params_of(5, dtype=np.float32)
    images = task.classification(
        MCLR(4), np.zeros(6, np.uint8), scale=1 / 127.5, offset=-1.0
    )
    seen = x.astype(np.float64) / 127.5 - 1
    losses, guess = cross_entropy(params, seen, np.asarray(batch["y"]))
    np.testing.assert_allclose(images.loss(params, batch), losses, rtol=1e-5)
    np.testing.assert_array_equal(
        images.metrics(params, batch)["accuracy"], guess == np.asarray(batch["y"])
    )
    # Without scaling they are seen as they are, not wrapped.
    raw = task.classification(MCLR(4), np.zeros(6, np.uint8))
    tiny = jax.tree.map(lambda p: p / 1000, params)
    losses, _ = cross_entropy(tiny, x.astype(np.float64), np.asarray(batch["y"]))
    np.testing.assert_allclose(raw.loss(tiny, batch), losses, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_keep_their_precision(dtype):
    scaled = task.classification(MCLR(4), np.zeros(6, dtype), scale=0.5, offset=0.1)
    batch, params = batch_of(6, dtype=dtype), params_of(7, dtype=dtype)
    assert scaled.loss(params, batch).dtype == dtype
    assert scaled.metrics(params, batch)["accuracy"].dtype == dtype


# What devices are handed: a sum over the samples that are really in the batch.


def test_samples_that_are_not_real_do_not_count():
    total = jax.jit(jax.value_and_grad(weighted_sum(mclr_loss)))
    batch, params = batch_of(8, dim=5, num_classes=3), mclr_params(9)
    real = jnp.array([True, False, True, True, False, False, True, False, False])
    key = jax.random.key(0)
    value, gradient = total(params, batch, real, key)
    some = jax.tree.map(lambda x: x[np.asarray(real)], batch)
    alone, alone_gradient = total(params, some, jnp.ones(4, bool), key)
    np.testing.assert_allclose(value, alone, rtol=1e-14)
    np.testing.assert_allclose(
        gradient["weight"], alone_gradient["weight"], rtol=1e-12, atol=1e-14
    )
    # Whatever stands in the other rows.
    noise = batch | {"x": jnp.where(real[:, None], batch["x"], 1e3)}
    value, _ = total(params, noise, real, key)
    np.testing.assert_allclose(value, alone, rtol=1e-14)


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda params, batch: mclr_loss(params, batch).mean(), r"\(\)"),
        (lambda params, batch: mclr_loss(params, batch)[:, None], r"\(9, 1\)"),
        (lambda params, batch: mclr_loss(params, batch)[1:], r"\(8,\)"),
    ],
)
def test_a_loss_without_one_value_per_sample_is_refused(loss, shape):
    batch = batch_of(10, dim=5, num_classes=3)
    with pytest.raises(InputError) as caught:
        weighted_sum(loss)(mclr_params(11), batch, jnp.ones(9, bool), jax.random.key(0))
    text = str(caught.value)
    assert caught.match(rf"shape \(9,\); it returned shape {shape}\.$")
    assert text.startswith("loss_fn must return one loss per sample")
    assert ". " not in text


def test_the_sentence_reaches_whoever_trains():
    federation, _ = classes_federation(12, [4, 6], [0, 0])
    with pytest.raises(InputError, match="loss_fn must return one loss per sample"):
        train(lambda p, b: mclr_loss(p, b).mean(), federation, mclr_params(13), 1)


def train(loss, federation, params, steps, cursor=0, batch_size=2, lr=1.0):
    """One call of every device, all starting from the same model."""
    size = len(federation.team)
    number = jnp.full(size, cursor, jnp.int32)
    rule = local.Steps(
        loss,
        Schedule(device_steps=steps, batch_size=batch_size),
        keys.batch_key(jax.random.key(14)),
        Rates(jnp.float64(lr), jnp.float64(0)),
        federation,
    )
    start = jax.tree.map(lambda x: jnp.stack([x] * size), params)
    everyone = Cohort.everyone(federation)
    return jax.jit(lambda: local.train(rule, everyone, number, start, None))()


def noisy_loss(theta, batch, key):
    """Its gradient is a number drawn from the key, the same for all samples."""
    return theta * jnp.ones(batch["x"].shape[0]) * jax.random.normal(key)


@pytest.mark.parametrize("batch_size", [2, None])
def test_a_random_loss_gets_a_key_of_its_own_in_every_step_on_every_device(batch_size):
    # 600 samples are more than one block of the full-batch sum.
    counts = [3, 600] if batch_size is None else [3, 5]
    devices = [{"x": np.zeros(n)} for n in counts]
    federation = from_arrays(devices, [0, 0])
    options = {"batch_size": batch_size}
    draws = np.stack(
        [
            -np.asarray(
                train(noisy_loss, federation, jnp.float64(0), 1, c, **options)[0]
            )
            for c in range(4)
        ]
    )
    assert len(np.unique(draws)) == draws.size
    # Four steps in one call draw what four calls of one step draw.
    together, _ = train(noisy_loss, federation, jnp.float64(0), 4, 0, **options)
    np.testing.assert_allclose(together, -draws.sum(axis=0), rtol=1e-12)
    # And a resumed stream goes on.
    last_two, _ = train(noisy_loss, federation, jnp.float64(0), 2, 2, **options)
    np.testing.assert_allclose(last_two, -draws[2:].sum(axis=0), rtol=1e-12)


def test_only_a_parameter_named_key_makes_a_loss_random():
    assert takes_key(noisy_loss)
    assert not takes_key(mclr_loss)
    assert not takes_key(task.classification(MCLR(4), np.zeros(6)).loss)
    assert takes_key(task.classification(MCLR(4), np.zeros(6), random=True).loss)


def test_the_noise_does_not_change_which_samples_are_drawn():
    def with_key(theta, batch, key):
        del key
        return theta[batch["row"]]

    def without(theta, batch):
        return theta[batch["row"]]

    devices = [{"row": np.arange(5)}, {"row": np.arange(5, 12)}]
    federation = from_arrays(devices, [0, 0])
    one, _ = train(with_key, federation, jnp.zeros(12), 3)
    two, _ = train(without, federation, jnp.zeros(12), 3)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("counts", [[5], [512], [513, 2]])
def test_full_batches_are_means_over_all_samples_of_any_number(counts):
    devices = [{"x": np.random.default_rng(n).normal(size=n)} for n in counts]
    federation = from_arrays(devices, [0] * len(counts))

    def loss(theta, batch):
        return 0.5 * (theta - batch["x"]) ** 2

    theta, value = train(loss, federation, jnp.float64(0.7), 1, batch_size=None, lr=0.5)
    for d, device in enumerate(devices):
        mean = device["x"].mean()
        assert theta[d] == pytest.approx(0.7 - 0.5 * (0.7 - mean), rel=1e-12)
        assert value[d] == pytest.approx(0.5 * ((0.7 - device["x"]) ** 2).mean())


def test_fetch_and_fold_serve_one_device_each():
    # One key per number, and no two alike.
    folded = keys.fold_each(jax.random.key(0), jnp.arange(5))
    words = jax.random.key_data(folded)
    assert len({tuple(row) for row in words.tolist()}) == 5
    np.testing.assert_array_equal(
        words[3], jax.random.key_data(jax.random.fold_in(jax.random.key(0), 3))
    )
    pool = {"x": jnp.arange(6)}
    place = jnp.array([1, 0], jnp.int32)
    np.testing.assert_array_equal(batches.fetch(pool, jnp.int32(3), place)["x"], [4, 3])
