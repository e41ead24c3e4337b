"""Synthetic(α, β) against its definition."""

import dataclasses

import numpy as np
import pytest

from permfl_jax import data, errors
from permfl_jax.data import synthetic

OPTIONS = data.SourceOptions(num_devices=6, seed=3)


def load(**changes):
    return data.load("synthetic", dataclasses.replace(OPTIONS, **changes))


def assert_same(one, other):
    for field in ("x", "y", "device"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_shapes_and_types():
    drawn = load()
    assert drawn.x.dtype == np.float32
    assert drawn.y.dtype == np.int32
    assert drawn.device.dtype == np.int32
    assert drawn.x.shape == (len(drawn.y), 60)
    assert drawn.device.shape == drawn.y.shape
    assert drawn.num_classes == 10
    assert (drawn.scale, drawn.offset) == (1.0, 0.0)
    np.testing.assert_array_equal(np.unique(drawn.device), np.arange(6))
    assert (np.diff(drawn.device) >= 0).all()


def test_the_seed_decides_everything():
    assert_same(load(), load())
    assert not np.array_equal(load().x[:100], load(seed=4).x[:100])


def test_one_more_device_changes_nobody_else():
    few, many = load(), load(num_devices=7)
    old = many.device < 6
    for field in ("x", "y", "device"):
        np.testing.assert_array_equal(getattr(few, field), getattr(many, field)[old])
    assert (~old).any()


def test_devices_differ_from_each_other():
    drawn = load()
    firsts = [drawn.x[drawn.device == device][0, 0] for device in range(6)]
    assert len(set(firsts)) == 6


def test_sizes_follow_the_formula():
    """5 (floor(lognormal(4, 2)) + 50): multiples of 5, >= 250, median 5 (e^4 + 50).

    The median of 400 draws lies within four of its standard errors: of the logarithm,
    1.2533 * 2 / sqrt(400).
    """
    rngs = [np.random.default_rng([0, device]) for device in range(400)]
    sizes = np.array([synthetic.draw_task(rng, 0.5, 0.5).size for rng in rngs])
    assert (sizes % 5 == 0).all()
    assert sizes.min() >= 250
    logarithms = np.log(sizes / 5 - 50 + 0.5)
    assert abs(np.median(logarithms) - 4.0) < 4 * 1.2533 * 2 / np.sqrt(400)
    assert 1.7 < logarithms.std() < 2.3


def test_sizes_are_in_the_data_and_depend_on_neither_alpha_nor_beta():
    expected = [
        synthetic.draw_task(np.random.default_rng([3, device]), 0.5, 0.5).size
        for device in range(6)
    ]
    for changes in ({}, {"alpha": 0.0}, {"beta": 2.0}):
        np.testing.assert_array_equal(np.bincount(load(**changes).device), expected)


def test_labels_are_the_argmax_of_the_devices_own_model():
    """One example at a time, one class at a time, in Python."""
    drawn = load()
    for device in range(6):
        task = synthetic.draw_task(np.random.default_rng([3, device]), 0.5, 0.5)
        rows = np.flatnonzero(drawn.device == device)[:40]
        for x, y in zip(drawn.x[rows].tolist(), drawn.y[rows], strict=True):
            scores = [
                sum(x[j] * task.weights[j, c] for j in range(60)) + task.bias[c]
                for c in range(10)
            ]
            assert scores.index(max(scores)) == y


def test_features_have_variance_j_to_the_minus_1_2():
    """Around the device's own centre and uncorrelated, to 4 standard errors."""
    rng = np.random.default_rng(1)
    task = synthetic.draw_task(rng, 0.5, 0.5)._replace(size=60_000)
    x, _ = synthetic.draw_examples(rng, task)
    variance = np.arange(1, 61) ** -1.2
    error = 4 / np.sqrt(60_000)
    np.testing.assert_allclose(x.var(axis=0) / variance, 1.0, atol=error * np.sqrt(2))
    deviations = (x.mean(axis=0) - task.center) / np.sqrt(variance)
    np.testing.assert_allclose(deviations, 0.0, atol=error)
    correlation = np.corrcoef(x.T)[np.triu_indices(60, 1)]
    # 1,770 correlations: 5 standard errors.
    np.testing.assert_allclose(correlation, 0.0, atol=5 / np.sqrt(60_000))


def test_alpha_and_beta_are_standard_deviations_of_the_devices_means():
    """sd(mean of W) = sqrt(α² + 1/600) and sd(mean of v) = sqrt(β² + 1/60)."""
    alpha, beta = 2.0, 0.5
    rngs = [np.random.default_rng([0, device]) for device in range(2000)]
    tasks = [synthetic.draw_task(rng, alpha, beta) for rng in rngs]
    model = np.array([task.weights.mean() for task in tasks])
    bias = np.array([task.bias.mean() for task in tasks])
    center = np.array([task.center.mean() for task in tasks])
    relative = 4 / np.sqrt(2 * 2000)
    np.testing.assert_allclose(model.std(), np.sqrt(alpha**2 + 1 / 600), rtol=relative)
    np.testing.assert_allclose(center.std(), np.sqrt(beta**2 + 1 / 60), rtol=relative)
    # Weights and bias of a device share their mean; its centre has another.
    assert np.corrcoef(model, bias)[0, 1] > 0.95
    assert abs(np.corrcoef(model, center)[0, 1]) < 4 / np.sqrt(2000)
    within = np.array([task.weights.std() for task in tasks])
    np.testing.assert_allclose(within.mean(), 1.0, rtol=0.01)


@pytest.mark.parametrize("field", ["alpha", "beta"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_bad_deviation_is_one_sentence(field, value):
    with pytest.raises(errors.InputError) as caught:
        load(**{field: value})
    assert str(caught.value) == (
        f"--synthetic_{field} must be finite and >= 0, got {value}."
    )


def test_zero_deviations_are_allowed():
    assert np.isfinite(load(alpha=0.0, beta=0.0, num_devices=1).x).all()


def test_no_device_and_negative_seed_are_refused():
    with pytest.raises(errors.InputError, match="--num_devices must be >= 1, got 0"):
        load(num_devices=0)
    with pytest.raises(errors.InputError, match="--seed must be >= 0, got -1"):
        load(seed=-1)
