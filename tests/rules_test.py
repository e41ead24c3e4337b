"""One step of a device, and the pull that it is one of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax.rules import Rates, Step, proximal, pulled

THETA = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(3.0)}
ANCHOR = {"a": jnp.asarray([0.5, 0.5]), "b": jnp.asarray(-1.0)}


def step(anchor, prox):
    """∇f = 2θ, f = |θ|²."""

    def gradient(params, which=0):
        assert which == 0
        loss = sum((x**2).sum() for x in jax.tree.leaves(params))
        return loss, jax.tree.map(lambda x: 2 * x, params)

    rates = Rates(jnp.asarray(0.1), jnp.asarray(prox))
    return proximal(Step(gradient, anchor, rates, jax.random.key(0)), THETA)


def test_a_step_goes_down_and_towards_the_anchor():
    """θ - 0.1 (2θ + 0.7 (θ - w)); the loss is f(θ) before the step, without a pull."""
    theta, loss = step(ANCHOR, 0.7)
    np.testing.assert_allclose(theta["a"], [0.8 - 0.035, -1.6 + 0.175], rtol=1e-14)
    np.testing.assert_allclose(theta["b"], 2.4 - 0.28, rtol=1e-14)
    np.testing.assert_allclose(loss, 14.0)


@pytest.mark.parametrize(("anchor", "prox"), [(None, 0.7), (ANCHOR, 0.0)])
def test_without_an_anchor_or_a_pull_it_is_plain_descent(anchor, prox):
    theta, _ = step(anchor, prox)
    np.testing.assert_allclose(theta["a"], [0.8, -1.6], rtol=1e-14)
    np.testing.assert_allclose(theta["b"], 2.4, rtol=1e-14)


def test_each_leaf_keeps_its_dtype():
    def leaves(value):
        return {"half": jnp.full(2, value, jnp.float16), "whole": jnp.full(2, value)}

    total = pulled(leaves(1.0), leaves(2.0), leaves(0.0), jnp.float64(0.5))
    assert total["half"].dtype == jnp.float16
    assert total["whole"].dtype == jnp.float64
    np.testing.assert_array_equal(total["half"], 2)
    np.testing.assert_array_equal(total["whole"], 2)
