"""Models against parameter counts, native layers and their gradients."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import models, task
from permfl_jax.errors import InputError
from permfl_jax.models import ModelSpec, layers
from permfl_jax.models.cnn import CNN, PLANS, Plan

GREY, COLOUR = (28, 28), (32, 32, 3)


def spec(dataset="mnist", shape=GREY, num_classes=10, hidden=()):
    return ModelSpec(
        dataset=dataset, sample_shape=shape, num_classes=num_classes, hidden=hidden
    )


def shapes(module, sample_shape):
    """Shapes of the parameters; computes nothing."""
    sample = jax.ShapeDtypeStruct((1, *sample_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), sample)["params"]


def count(module, sample_shape):
    return sum(
        math.prod(x.shape) for x in jax.tree.leaves(shapes(module, sample_shape))
    )


@pytest.mark.parametrize(
    ("name", "dataset", "shape", "num_classes", "hidden", "parameters"),
    [
        ("mclr", "mnist", GREY, 10, (), 7_850),
        ("mclr", "mnist", GREY, 62, (), 48_670),
        ("mclr", "cifar100", COLOUR, 100, (), 307_300),
        ("mclr", "synthetic", (60,), 10, (), 610),
        ("dnn", "mnist", GREY, 10, (), 79_510),
        ("dnn", "synthetic", (60,), 10, (), 1_430),
        # Two hidden layers, as the paper says: 60·20+20 + 20·20+20 + 20·10+10.
        ("dnn", "synthetic", (60,), 10, (20, 20), 1_850),
        ("dnn", "mnist", GREY, 10, (100, 50), 784 * 100 + 100 + 5_050 + 510),
        ("dnn", "mnist", GREY, 10, (7,), 784 * 7 + 7 + 80),
        ("cnn", "mnist", GREY, 10, (), 2_362_874),
        ("cnn", "emnist_digits", (28, 28, 1), 10, (), 2_362_874),
        ("cnn", "femnist", GREY, 62, (), 2_369_582),
        ("cnn", "femnist", (28, 28, 1), 62, (), 2_369_582),
        ("cnn", "fashion_mnist", GREY, 10, (), 421_642),
        ("cnn", "cifar10", COLOUR, 10, (), 581_866),
        ("cnn", "cifar100", COLOUR, 100, (), 2_519_780),
    ],
)
def test_parameters_are_those_of_the_paper(
    name, dataset, shape, num_classes, hidden, parameters
):
    """SPEC B.1."""
    module = models.build(name, spec(dataset, shape, num_classes, hidden))
    assert count(module, shape) == parameters
    sample = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    logits = jax.eval_shape(module.init_with_output, jax.random.key(0), sample)[0]
    assert logits.shape == (3, num_classes)


def test_every_known_image_dataset_has_a_network():
    for dataset in PLANS:
        shape = COLOUR if dataset.startswith("cifar") else GREY
        shape = (8, 8) if dataset == "digits" else shape
        assert count(models.build("cnn", spec(dataset, shape)), shape) > 0


def test_weights_and_biases_start_as_torch_starts_them():
    """U(±1/√fan_in): mean 0, variance 1/(3 fan_in), and values up to the bound."""
    model = models.build("dnn", spec(hidden=(64, 400)))
    x = jnp.zeros((1, 784), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(1), x)["params"]
    fan_in = {"hidden_0": 784, "hidden_1": 64, "output": 400}
    assert params.keys() == fan_in.keys()
    for name, fan in fan_in.items():
        for leaf in params[name].values():
            values = np.asarray(leaf, np.float64).ravel()
            bound = fan**-0.5
            assert abs(values).max() <= bound
            # The top 5 / n of the range is empty with probability e^-5.
            assert abs(values).max() > bound * (1 - 5 / values.size) or values.size < 64
            # Variance of the sample variance: 4/45 bound⁴ / n; of the mean: bound²/3n.
            spread = 5 / math.sqrt(values.size)
            assert values.mean() == pytest.approx(0, abs=spread * bound / 3**0.5)
            assert values.var() == pytest.approx(
                bound**2 / 3, abs=spread * (4 / 45) ** 0.5 * bound**2
            )


def test_kernels_have_the_fan_in_of_their_window():
    module = layers.Conv(8, window=3)
    x = jnp.zeros((5, 4, 5, 1), jnp.float32)
    params = jax.jit(module.init)(jax.random.key(2), x)["params"]
    bound = (4 * 3 * 3) ** -0.5
    weight = abs(np.asarray(params["weight"]))
    assert weight.shape == (36, 8)
    assert 0.95 * bound < weight.max() <= bound
    assert abs(np.asarray(params["bias"])).max() <= bound


def test_flattening_layers_have_the_fan_in_of_a_whole_image():
    module = layers.Flatten(8)
    x = jnp.zeros((5, 4, 3, 2), jnp.float32)
    params = jax.jit(module.init)(jax.random.key(2), x)["params"]
    bound = 60**-0.5
    weight = abs(np.asarray(params["weight"]))
    assert weight.shape == (60, 8)
    assert 0.95 * bound < weight.max() <= bound
    assert abs(np.asarray(params["bias"])).max() <= bound


def test_flattening_is_a_product_over_rows_channels_and_columns():
    module = layers.Flatten(5)
    x = jnp.asarray(np.random.default_rng(9).normal(size=(4, 3, 2, 7)))
    params = float64_init(module, x, 9)
    weight = np.asarray(params["weight"]).reshape(4, 3, 2, 5)
    np.testing.assert_allclose(
        module.apply({"params": params}, x),
        np.einsum("hcwb,hcwf->bf", x, weight) + np.asarray(params["bias"]),
        rtol=1e-12,
    )


def test_dnn_equals_a_numpy_network():
    model = models.build("dnn", spec("synthetic", (6,), 3, (5, 4)))
    x = np.random.default_rng(3).normal(size=(7, 6))
    params = float64_init(model, x, 3)
    hidden = x
    for name in ("hidden_0", "hidden_1", "output"):
        layer = jax.tree.map(np.asarray, params[name])
        hidden = hidden @ layer["weight"].T + layer["bias"]
        if name != "output":
            hidden = np.maximum(hidden, 0)
    np.testing.assert_allclose(
        model.apply({"params": params}, jnp.asarray(x)), hidden, rtol=1e-12
    )


def float64_init(module, x, seed):
    x = jnp.asarray(x, jnp.float32)
    params = jax.jit(module.init)(jax.random.key(seed), x)["params"]
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


def to_ours(x):
    """`[B, H, W, C]` to `[H, C, W, B]`."""
    return x.transpose(1, 3, 2, 0)


def from_ours(x):
    """`[H, C, W, B]` to `[B, H, W, C]`."""
    return x.transpose(3, 0, 2, 1)


def native_conv(params, x, window, padding):
    """The same numbers through XLA's convolution, `[B, H, W, in]`."""
    kernel = params["weight"].reshape(window, window, x.shape[-1], -1)
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + params["bias"][None, None, None]


@pytest.mark.parametrize(
    ("window", "padding", "side", "channels"), [(2, 0, (6, 5), 1), (3, 1, (4, 7), 3)]
)
def test_conv_and_its_gradients_equal_the_native_ones(window, padding, side, channels):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(2, *side, channels)))
    module = layers.Conv(5, window, padding)
    params = float64_init(module, to_ours(x), 4)

    def our_conv(params, x):
        return from_ours(module.apply({"params": params}, to_ours(x)))

    ours = our_conv(params, x)
    native = native_conv(params, x, window, padding)
    np.testing.assert_allclose(ours, native, rtol=1e-12, atol=1e-13)
    out = jnp.asarray(rng.normal(size=native.shape))

    def gradients(conv):
        return jax.jit(jax.grad(lambda p, x: (conv(p, x) * out).sum(), (0, 1)))(
            params, x
        )

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12),
        gradients(our_conv),
        gradients(lambda p, x: native_conv(p, x, window, padding)),
    )


def our_pool(x, stride):
    """`[B, H, W, C]`, as flax's."""
    return from_ours(layers.max_pool(to_ours(x), 2, stride))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [(6, 6), (7, 5), (2, 3)])
def test_pool_and_its_gradient_equal_flaxs(stride, side):
    """Where no two pixels are equal."""
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=(2, *side, 3)))
    native = nn.max_pool(x, (2, 2), (stride, stride))
    np.testing.assert_array_equal(
        jax.jit(our_pool, static_argnums=1)(x, stride), native
    )
    out = jnp.asarray(rng.normal(size=native.shape))
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda x: (our_pool(x, stride) * out).sum()))(x),
        jax.jit(
            jax.grad(lambda x: (nn.max_pool(x, (2, 2), (stride, stride)) * out).sum())
        )(x),
        rtol=1e-12,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_of_equal_pixels_takes_the_gradient_of_its_window(stride):
    """Many ties: pixels are 0 or 1. A loop over windows is the oracle."""
    rng = np.random.default_rng(8)
    x = rng.integers(0, 2, (5, 3, 6, 2)).astype(np.float64)
    pooled = layers.max_pool(jnp.asarray(x), 2, stride)
    out = rng.normal(size=pooled.shape)
    expected = np.zeros_like(x)
    for h, c, w, b in np.ndindex(*pooled.shape):
        window = x[stride * h :, c, stride * w :, b][:2, :2]
        i, j = divmod(int(window.argmax()), 2)  # the first of the largest
        expected[stride * h + i, c, stride * w + j, b] += out[h, c, w, b]
    _, pull_back = jax.vjp(lambda x: layers.max_pool(x, 2, stride), jnp.asarray(x))
    (gradient,) = pull_back(jnp.asarray(out))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)
    assert gradient.sum() == pytest.approx(out.sum(), rel=1e-12)


def test_pools_can_be_differentiated_forwards_and_twice():
    """Forwards as backwards; and the Hessian of Σ c·pool(x)³, a vector at a time."""
    rng = np.random.default_rng(10)
    x, v = (jnp.asarray(rng.normal(size=(4, 2, 5, 3))) for _ in range(2))

    def energy(pool):
        return lambda x: (pool(x) ** 3).sum()

    def native(x):
        return to_ours(nn.max_pool(from_ours(x), (2, 2), (1, 1)))

    def ours(x):
        return layers.max_pool(x, 2, 1)

    out, tangent = jax.jvp(ours, (x,), (v,))
    _, pull_back = jax.vjp(ours, x)
    assert (out * tangent).sum() == pytest.approx((pull_back(out)[0] * v).sum())

    def products(pool):
        gradient = jax.grad(energy(pool))
        yield jax.grad(lambda x: (gradient(x) * v).sum())(x)  # reverse over reverse
        yield jax.jvp(gradient, (x,), (v,))[1]  # forward over reverse

    for one, other in zip(products(ours), products(native), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_cnn_equals_the_same_network_of_native_layers():
    plan = Plan((3, 4), window=3, padding=1, stride=2, hidden=(6,))
    module = CNN(5, plan)
    x = jnp.asarray(np.random.default_rng(6).normal(size=(2, 9, 8)))
    params = float64_init(module, x, 6)

    @jax.jit
    def features(y):
        for name in ("conv_0", "conv_1"):
            y = nn.relu(native_conv(params[name], y, 3, 1))
            y = nn.max_pool(y, (2, 2), (2, 2))
        return to_ours(y).reshape(-1, 2).T

    y = np.asarray(features(x[..., None]))
    hidden, output = (
        jax.tree.map(np.asarray, params[n]) for n in ("hidden_0", "output")
    )
    y = np.maximum(y @ hidden["weight"] + hidden["bias"], 0)
    y = y @ output["weight"].T + output["bias"]
    np.testing.assert_allclose(
        jax.jit(module.apply)({"params": params}, x), y, rtol=1e-11
    )


def small_image_task(dropout):
    plan = Plan((2,), window=3, padding=1, stride=2, hidden=(40,), dropout=dropout)
    module = CNN(3, plan)
    assert models.is_random(module)
    images = task.classification(module, np.zeros((4, 4), np.float32), random=True)
    rng = np.random.default_rng(7)
    batch = {
        "x": jnp.asarray(rng.normal(size=(6, 4, 4)).astype(np.float32)),
        "y": jnp.asarray(rng.integers(0, 3, 6), jnp.int32),
    }
    return images, jax.jit(images.init)(jax.random.key(7)), batch


def test_dropout_acts_in_the_training_loss_alone():
    images, params, batch = small_image_task(dropout=0.5)
    loss, metrics = jax.jit(images.loss), jax.jit(images.metrics)
    one, same, other = (loss(params, batch, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.any(one == other)
    scores = metrics(params, batch)
    assert not np.any(one == scores["loss"])
    # Scoring is what training would be without dropout.
    plain, _, _ = small_image_task(dropout=0.0)
    np.testing.assert_allclose(
        jax.jit(plain.loss)(params, batch, jax.random.key(1)),
        scores["loss"],
        rtol=1e-6,
    )


def test_half_of_the_hidden_units_are_dropped_and_the_rest_doubled():
    plan = Plan((1,), window=1, padding=0, stride=1, hidden=(1000,), dropout=0.5)
    module = CNN(1000, plan)
    x = jnp.ones((1, 2, 2))
    params = {
        "conv_0": {"weight": jnp.ones((1, 1)), "bias": jnp.zeros(1)},
        "hidden_0": {"weight": jnp.ones((1, 1000)), "bias": jnp.zeros(1000)},
        "output": {"weight": jnp.eye(1000), "bias": jnp.zeros(1000)},
    }
    logits = module.apply(
        {"params": params}, x, train=True, rngs={"dropout": jax.random.key(0)}
    )
    assert set(np.unique(logits)) == {0.0, 2.0}
    # Binomial: 500 ± 16.
    assert np.sum(np.asarray(logits) == 0) == pytest.approx(500, abs=5 * 16)


def test_only_cifar10_drops_out():
    assert {name for name, plan in PLANS.items() if plan.dropout} == {"cifar10"}
    assert PLANS["cifar10"].dropout == 0.5


def test_models_without_a_training_mode_are_not_random():
    for name in ("mclr", "dnn"):
        assert not models.is_random(models.build(name, spec()))


def test_unknown_models_are_listed():
    with pytest.raises(InputError) as caught:
        models.build("vgg", spec())
    assert (
        str(caught.value) == "--model=vgg is unknown; choose from cnn, dnn, gru, mclr."
    )


@pytest.mark.parametrize(
    ("dataset", "shape"), [("synthetic", (60,)), ("mnist", (784,)), ("other", GREY)]
)
def test_networks_for_images_refuse_other_data(dataset, shape):
    with pytest.raises(InputError) as caught:
        models.build("cnn", spec(dataset, shape))
    text = str(caught.value)
    assert f"--dataset={dataset}" in text
    assert ", ".join(PLANS) in text
    assert "mclr" in text
    assert text.endswith(".")
    assert ". " not in text  # one sentence


@pytest.mark.parametrize("hidden", [(0,), (-3,), (20, 0), (1, 2, 3)])
def test_hidden_layers_are_one_or_two_of_some_width(hidden):
    with pytest.raises(InputError) as caught:
        models.build("dnn", spec(hidden=hidden))
    assert str(caught.value) == (
        "--hidden takes one or two widths of 1 to 100000, got "
        f"{','.join(map(str, hidden))}."
    )


def test_every_model_gives_the_classes_asked_for():
    for name in models.MODELS:
        sequences = spec("shakespeare", (80,)) if name == "gru" else spec()
        assert models.build(name, sequences).num_classes == 10


def test_a_pool_shows_a_nan_wherever_it_stands():
    for place in range(4):
        x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(2, 1, 2, 1)
        assert np.isnan(layers.max_pool(x, 2, 1)).all()
