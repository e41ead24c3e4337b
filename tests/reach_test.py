"""How far the server goes, by two residuals in a row and by the loss."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from permfl_jax import reach as reaching
from permfl_jax.reach import Reach


def of(residual, length=1.0, agreement=1.0, beyond=0.0, worst=0.0):
    numbers = map(jnp.float64, (length, agreement, beyond, worst))
    return Reach(jnp.asarray(residual), *numbers)


def test_the_length_is_a_secant_with_limits():
    """Along one direction the next residual is 1 - β·L_F times this one."""

    def after(relative, length=1.0, last=2.0):
        new = reaching.after(
            of(jnp.full(3, last), length),
            jnp.full(3, relative * last),
            jnp.float64(0.1),
            jnp.float64(0.5),
        )
        assert new.beyond == new.length - 0.1
        return float(new.length), float(new.agreement)

    assert after(0.9) == (1.5, 0.95)  # slow: as much more as is allowed
    assert after(0.6)[0] == pytest.approx(0.5 / 0.4)  # the next would be 0.5
    assert after(0.3)[0] == after(0.0)[0] == 1  # well damped
    assert after(-0.25)[0] == pytest.approx(1 / 1.25)  # the next would be 0
    assert after(-1.5) == (0.5, 0.0)
    assert after(2.5)[0] == 0.5  # has grown, though straight ahead
    assert after(-3.0, length=0.1)[0] == 0.1
    assert after(1.0, last=0.0) == (1, 1)  # the first round
    assert after(0.0, length=0.7) == (0.7, 1)  # nothing arrived: nothing is learned


def test_teams_go_further_while_their_steps_agree():
    """Steps of which the last is `factor` times the one before; over all teams."""

    def after(factor, relaxation):
        before = np.array([3.0, 0.1])
        rows = map(jnp.asarray, (factor * before**2, before**2))
        return float(reaching.relaxed(jnp.float64(relaxation), *rows))

    assert after(0.9, 1.0) == pytest.approx(1.5)
    assert after(0.9, 1.5) == 1.9  # beyond 2 nothing would be safe
    assert after(0.6, 1.2) == pytest.approx(1.2 * 0.5 / 0.4)
    assert after(0.3, 1.4) == 1.4
    assert after(-0.25, 1.9) == pytest.approx(1.9 / 1.25)
    assert after(-0.25, 1.1) == 1  # plain averaging
    none = jnp.zeros(3)  # K = 1: the first step has none before
    assert reaching.relaxed(jnp.float64(1.2), none, none) == 1.2


def test_a_round_in_which_nothing_arrives_is_not_taken_for_an_answer():
    """What is compared next is the last residual that there was."""
    last = of(jnp.full(3, 2.0), 0.5, 0.5, 0.4, 0.5)
    silent = reaching.after(last, jnp.zeros(3), jnp.float64(0.1), jnp.float64(0.5))
    chex.assert_trees_all_equal(silent, last)


@pytest.mark.parametrize("model", [np.array([[1.0, 2.0]]), np.float64(3.0)])
@pytest.mark.parametrize(
    ("loss", "beyond", "far"),
    [
        (2.0, 0.25, False),  # as bad as it was, no worse
        (2.1, 0.25, True),
        (np.nan, 0.25, True),
        (np.inf, 0.25, True),
        (2.1, 0.0, False),  # plain averaging is not taken back
    ],
)
def test_x_goes_back_where_it_is_worse_than_ever(model, loss, beyond, far):
    """Whatever the rank of a leaf, a scalar too."""
    start, residual = jax.tree.map(jnp.asarray, (model, 4 * model))
    before = of(residual, 0.75, 0.3, beyond, 2.0)
    x = start + 0.75 * residual
    seen, server, reach = reaching.look(before, x, jnp.float64(loss))
    assert bool(seen) is far
    went = 0.75 - beyond * far
    np.testing.assert_array_equal(server, start + went * residual)
    assert reach.length == went
    chex.assert_trees_all_equal_shapes_and_dtypes((server, reach), (x, before))
    assert float(reach.beyond) == (0 if far else beyond)
    assert float(reach.worst) == (2 if far else max(loss, 2))
    assert reach.agreement == before.agreement
