"""Rows and means of stacked pytrees, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import tree

# One matrix product, its largest size, and the scatter-add beyond it.
TEAM_COUNTS = [1, 5, tree._ONE_HOT_TEAMS, tree._ONE_HOT_TEAMS + 1]


def stacked(seed, rows, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(rng.normal(size=(rows, 2, 3)).astype(dtype)),
        "b": jnp.asarray(rng.normal(size=rows).astype(dtype)),
    }


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_take_gives_the_rows():
    rows = stacked(0, 5)
    index = np.array([3, 0, 3])
    assert_equal(
        tree.take(rows, jnp.asarray(index)),
        jax.tree.map(lambda x: np.asarray(x)[index], rows),
    )


def test_take_of_everything_copies_nothing():
    rows = stacked(0, 5)
    assert tree.take(rows, None) is rows


def test_take_past_the_end_gives_the_last_row():
    rows = stacked(0, 5)
    assert_equal(
        tree.take(rows, jnp.array([5, 1, 900])), tree.take(rows, jnp.array([4, 1, 4]))
    )


def test_put_inverts_take():
    rows = stacked(0, 5)
    index = jnp.array([3, 0])
    assert_equal(tree.put(rows, index, tree.take(rows, index)), rows)
    other = stacked(1, 2)
    written = tree.put(rows, index, other)
    assert_equal(tree.take(written, index), other)
    rest = jnp.array([1, 2, 4])
    assert_equal(tree.take(written, rest), tree.take(rows, rest))


def test_put_of_everything_replaces_everything():
    rows, other = stacked(0, 5), stacked(1, 5)
    assert_equal(tree.put(rows, None, other), other)


def test_put_past_the_end_writes_nothing():
    rows = stacked(0, 5)
    new = stacked(1, 3)
    written = tree.put(rows, jnp.array([5, 1, 900]), new)
    expected = jax.tree.map(lambda x, r: np.asarray(x).copy(), rows, new)
    for name in expected:
        expected[name][1] = np.asarray(new[name])[1]
    assert_equal(written, expected)


def test_stack_repeats_a_model():
    model = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.float64(7)}
    assert_equal(
        tree.stack(model, 4),
        {"a": np.tile(np.arange(6.0).reshape(2, 3), (4, 1, 1)), "b": np.full(4, 7.0)},
    )


def test_mean_is_the_weighted_average():
    rows = stacked(2, 4)
    weight = np.array([1.0, 0.0, 2.5, 4.0])
    result = tree.mean(rows, jnp.asarray(weight))
    for name, leaf in rows.items():
        np.testing.assert_allclose(
            result[name], np.average(leaf, axis=0, weights=weight), rtol=1e-14
        )


def test_mean_does_not_depend_on_the_scale_of_the_weights():
    rows, weight = stacked(2, 4), jnp.array([1.0, 0.0, 2.5, 4.0])
    for scale in (1e-6, 1e6):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12),
            tree.mean(rows, scale * weight),
            tree.mean(rows, weight),
        )


def segments(seed, num_segments):
    """Segments of unequal size, rows in no order, some of no weight."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, num_segments)
    segment = rng.permutation(np.repeat(np.arange(num_segments), sizes))
    weight = rng.uniform(0.5, 2, len(segment)) * (rng.random(len(segment)) < 0.7)
    return segment, weight


def segment_mean_loop(leaf, weight, segment, num_segments):
    means = []
    for i in range(num_segments):
        w, rows = weight[segment == i], np.asarray(leaf)[segment == i]
        zero = np.zeros(leaf.shape[1:])
        means.append(np.average(rows, axis=0, weights=w) if w.sum() else zero)
    return np.stack(means)


@pytest.mark.parametrize("num_segments", TEAM_COUNTS)
def test_segment_mean_equals_the_loop(num_segments):
    segment, weight = segments(num_segments, num_segments)
    rows = stacked(3, len(segment))
    result = jax.jit(tree.segment_mean, static_argnums=3)(
        rows, jnp.asarray(weight), jnp.asarray(segment, jnp.int32), num_segments
    )
    for name, leaf in rows.items():
        expected = segment_mean_loop(leaf, weight, segment, num_segments)
        np.testing.assert_allclose(result[name], expected, rtol=1e-12, atol=1e-14)


def test_segments_of_no_weight_are_tried():
    for num_segments in TEAM_COUNTS[1:]:
        segment, weight = segments(num_segments, num_segments)
        total = np.bincount(segment, weight)
        assert len(set(np.bincount(segment))) > 1
        assert (weight == 0).any()
        assert num_segments == 5 or (total == 0).any()


def test_both_ways_to_average_segments_agree(monkeypatch):
    segment, weight = segments(5, 7)
    arguments = (
        stacked(3, len(segment)),
        jnp.asarray(weight),
        jnp.asarray(segment, jnp.int32),
        7,
    )
    assert tree._ONE_HOT_TEAMS >= 7
    product = tree.segment_mean(*arguments)
    monkeypatch.setattr(tree, "_ONE_HOT_TEAMS", 0)
    # Proof that the second call goes the other way.
    monkeypatch.setattr(tree, "_product", None)
    scattered = tree.segment_mean(*arguments)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-13), product, scattered
    )


@pytest.mark.parametrize("num_segments", [4, tree._ONE_HOT_TEAMS + 1])
def test_float32_models_with_float64_weights_stay_float32(num_segments):
    segment, weight = segments(6, num_segments)
    rows = stacked(4, len(segment), np.float32)
    result = tree.segment_mean(
        rows, jnp.asarray(weight), jnp.asarray(segment, jnp.int32), num_segments
    )
    for name, leaf in rows.items():
        assert result[name].dtype == jnp.float32
        expected = segment_mean_loop(leaf, weight, segment, num_segments)
        np.testing.assert_allclose(result[name], expected, rtol=1e-5, atol=1e-6)
    mean = tree.mean(rows, jnp.asarray(weight))
    assert {leaf.dtype for leaf in jax.tree.leaves(mean)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(
        mean["a"], np.average(rows["a"], axis=0, weights=weight), rtol=1e-4, atol=1e-6
    )


def test_step_and_lerp_keep_the_dtype_of_each_leaf():
    start = {"a": jnp.float32(3), "b": jnp.float64(3)}
    end = {"a": jnp.float32(5), "b": jnp.float64(5)}
    moved = tree.step(start, end, jnp.float64(0.1))
    between = tree.lerp(start, end, jnp.float64(0.25))
    for name in start:
        assert moved[name].dtype == between[name].dtype == start[name].dtype
        np.testing.assert_allclose(moved[name], 2.5, rtol=1e-6)
        np.testing.assert_allclose(between[name], 3.5, rtol=1e-6)


def test_lerp_ends_are_exact_and_over_relaxation_goes_beyond():
    start, end = jnp.array([0.1, 0.7]), jnp.array([0.3, -1e9])
    np.testing.assert_array_equal(tree.lerp(start, end, jnp.float64(0)), start)
    np.testing.assert_array_equal(tree.lerp(start, end, jnp.float64(1)), end)
    beyond = tree.lerp(jnp.array([1.0]), jnp.array([2.0]), jnp.float64(3))
    np.testing.assert_allclose(beyond, [4.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "b"])
def test_finite_rows_finds_one_bad_number_in_any_leaf(bad, name):
    rows = stacked(5, 4) | {"count": jnp.arange(4)}
    assert tree.finite_rows(rows).all()
    rows[name] = rows[name].at[2].set(bad)
    np.testing.assert_array_equal(tree.finite_rows(rows), np.arange(4) != 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_whose_square_overflows_is_not_finite(dtype):
    edge = np.sqrt(np.finfo(dtype).max)
    good, bad = jnp.array([0.9 * edge, -1], dtype), jnp.array([1, -1.1 * edge], dtype)
    np.testing.assert_array_equal(tree.finite_rows(good), [True, True])
    np.testing.assert_array_equal(tree.finite_rows(bad), [True, False])


def test_what_holds_no_floats_is_finite():
    assert tree.finite_rows({"count": jnp.arange(3)}).shape == (3,)
    assert tree.finite_rows({"count": jnp.arange(3)}).all()


@pytest.mark.parametrize("num_segments", [3, 40])
def test_rows_are_added_to_their_segments(num_segments):
    """Both ways, fewer and more rows than segments, are a plain loop."""
    rng = np.random.default_rng(9)
    rows = {"a": rng.normal(size=(7, 2, 3)), "b": rng.normal(size=(7,))}
    total = {
        "a": rng.normal(size=(num_segments, 2, 3)),
        "b": rng.normal(size=(num_segments,)),
    }
    weight, segment = rng.random(7), rng.integers(0, 3, 7).astype(np.int32)
    result = jax.jit(tree.add_rows)(
        *jax.tree.map(jnp.asarray, (total, rows, weight, segment))
    )
    for name, leaf in total.items():
        expected = leaf.copy()
        for row, w, place in zip(rows[name], weight, segment, strict=True):
            expected[place] += w * row
        np.testing.assert_allclose(result[name], expected, rtol=1e-13, atol=1e-15)


def test_long_sums_keep_their_digits():
    """Equal rows have that row as mean; one long float32 sum is ten times as far."""
    row = np.random.default_rng(2).normal(size=5).astype(np.float32)
    rows = jnp.asarray(np.tile(row, (10_000, 1)))
    weight, segment = jnp.ones(10_000, jnp.float32), jnp.zeros(10_000, jnp.int32)
    mean = jax.jit(tree.segment_mean, static_argnums=3)(rows, weight, segment, 2)
    long_sum = np.cumsum(np.asarray(rows), axis=0, dtype=np.float32)[-1] / 10_000
    away = np.abs(np.asarray(mean[0]) - row).max()
    assert away <= np.abs(long_sum - row).max() / 10
    np.testing.assert_array_equal(mean[1], np.zeros(5))
