"""Codes: what arrives of one message, what its sender keeps, and how many bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles_uplink
import pytest

from permfl_jax.errors import InputError
from permfl_jax.uplink import Code, Link, Uplink, coded, upload_bytes

INT8 = Code("int8")
KEYS = jax.random.split(jax.random.key(0), 4000)
SHARES = [0.01, 0.1, 0.3, 0.5, 1.0]


def message(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        "bias": jnp.asarray(rng.normal(size=7).astype(dtype)),
        "weight": jnp.asarray(100 * rng.normal(size=(4, 5)).astype(dtype)),
    }


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_rounding_to_int8_is_right_in_the_mean():
    """Within 4 standard errors over 4000 keys, of which rounding has at most 1/2."""
    value = message()
    sent = jax.vmap(INT8, (0, None))(KEYS, value)
    for name, x in value.items():
        scale = np.abs(x).max() / 127
        error = np.asarray(sent[name]).mean(axis=0) - x
        assert np.abs(error).max() < 4 * scale / 2 / np.sqrt(len(KEYS))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_int8_is_the_level_below_or_above_of_255(dtype):
    value = message(1, dtype)
    sent = jax.vmap(INT8, (0, None))(KEYS[:200], value)
    for name, x in value.items():
        assert sent[name].dtype == x.dtype
        scale = float(np.abs(x).max()) / 127
        level = np.asarray(sent[name], float) / scale
        np.testing.assert_allclose(level, np.round(level), atol=1e-4)
        exact = np.asarray(x, float) / scale
        above = np.isclose(level, np.ceil(exact), atol=1e-4)
        below = np.isclose(level, np.floor(exact), atol=1e-4)
        assert (above | below).all()
        inner = np.abs(np.abs(exact) - 127) > 1e-3
        assert (above.any(axis=0) & below.any(axis=0))[inner].all()
        assert np.abs(level - exact).max() < 1 + 1e-4


def test_arrays_are_rounded_for_themselves_and_nothing_stays_nothing():
    value = {
        "one": jnp.array([1e-6, 3e-7]),
        "two": jnp.array([5.0]),
        "no": jnp.zeros(3),
    }
    sent = INT8(KEYS[0], value)
    assert np.abs(sent["one"] - value["one"]).max() < 1e-6 / 127
    np.testing.assert_allclose(sent["two"], 5.0, rtol=1e-15)
    assert sent["no"].tolist() == [0.0] * 3
    same = INT8(KEYS[0], {"a": jnp.ones(50) / 3, "b": jnp.ones(50)})
    other = INT8(KEYS[0], {"a": jnp.linspace(0, 1, 50), "b": jnp.linspace(0, 1, 50)})
    assert (same["a"] == same["a"][0]).all()
    assert (other["a"] != other["b"]).any()  # each array has draws of its own


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("code", [INT8, Code("topk", 0.1)])
def test_what_is_not_finite_arrives_so(code, bad):
    """A run that diverges is seen to."""
    value = message()
    value["bias"] = value["bias"].at[3].set(bad)
    assert not np.isfinite(flat(code(KEYS[0], value))).all()


@pytest.mark.parametrize("share", SHARES)
def test_topk_sends_the_largest_of_all_arrays_together(share):
    value = message(2)
    got = flat(Code("topk", share)(KEYS[0], value))
    np.testing.assert_array_equal(got, oracles_uplink.largest(share)(None, flat(value)))
    assert np.count_nonzero(got) == max(1, round(share * 27))


def test_equal_numbers_are_not_more_than_the_share():
    sent = Code("topk", 0.5)(KEYS[0], jnp.array([1.0, -1.0, 1.0, 1.0]))
    assert sent.tolist() == [1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("code", [INT8, *[Code("topk", s) for s in SHARES]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_sent_and_what_is_kept_are_the_message(code, dtype):
    """To the bit where numbers are sent or not, else to one rounding."""
    value, memory = message(3, dtype), message(4, dtype)
    sent, kept = coded(code, KEYS[0], value, memory)
    whole = flat(value) + flat(memory)
    if code.kind == "topk":
        np.testing.assert_array_equal(flat(sent) + flat(kept), whole)
    else:
        one = np.finfo(dtype).eps * np.abs(whole)
        assert (np.abs(flat(sent) + flat(kept) - whole) <= one).all()
    assert (flat(kept) == 0).all() == (code == Code("topk", 1.0))


def test_without_memory_nothing_is_kept():
    value = message(3)
    sent, kept = coded(Code("topk", 0.3), KEYS[0], value, None)
    assert kept is None
    np.testing.assert_array_equal(
        flat(sent), oracles_uplink.largest(0.3)(None, flat(value))
    )


@pytest.mark.parametrize(
    ("text", "code", "size"),
    [
        ("none", None, 4 * 7850),
        ("int8", INT8, 7850 + 2 * 4),
        ("topk:0.01", Code("topk", 0.01), 78 * 8),  # of 78.5, to the even number
        ("topk:1", Code("topk", 1.0), 7850 * 4),  # whole
        ("topk:1e-9", Code("topk", 1e-9), 8),
    ],
)
def test_codes_by_name_and_their_bytes(text, code, size):
    model = {
        "weight": jax.ShapeDtypeStruct((10, 784), jnp.float32),
        "bias": jax.ShapeDtypeStruct((10,), jnp.float32),
    }
    assert Code.parse("--device_upload", text) == code
    assert upload_bytes(code, model) == size
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64), model)
    of_8 = {4 * 7850: 8 * 7850, 7858: 7850 + 2 * 8, 78 * 8: 78 * 12, 8: 12}
    assert upload_bytes(code, wide) == of_8[size]
    if code is not None:
        assert Code.parse("--device_upload", str(code)) == code


@pytest.mark.parametrize(
    "text",
    [
        *("", "int4", "int8:2", "topk", "topk:", "topk:0", "topk:-1", "topk:1.01"),
        *("topk:nan", "topk:inf", "topk:a", "None", "TOPK:0.1", "none:1"),
    ],
)
def test_other_names_are_refused_in_one_sentence(text):
    with pytest.raises(InputError) as refused:
        Code.parse("--team_upload", text)
    assert str(refused.value) == (
        f"--team_upload={text} must be none, int8 or topk:SHARE with a share above 0 "
        "and at most 1."
    )


@pytest.mark.parametrize("loss", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("tier", ["device", "team"])
def test_a_loss_is_a_probability(tier, loss):
    with pytest.raises(InputError) as refused:
        Uplink(**{f"{tier}_loss": loss})
    assert str(refused.value) == (
        f"--{tier}_loss must be a probability from 0 to 1, got {loss}."
    )


def test_a_tier_has_a_link_where_something_happens_to_its_uploads():
    assert Link.of(None, "device") is None
    assert Link.of(Uplink(), "team") is None
    uplink = Uplink(device=INT8, team_loss=0.5)
    assert Link.of(uplink, "device") == Link("device", INT8, 0.0, True)
    assert Link.of(uplink, "team") == Link("team", None, 0.5, False)
    forgets = Uplink(device=INT8, memory=False)
    assert Link.of(forgets, "device") == Link("device", INT8, 0.0, False)
    assert uplink.given("team") == ["--team_loss=0.5"]
    both = Uplink(team=Code("topk", 0.25), team_loss=0.5)
    assert both.given("team") == ["--team_upload=topk:0.25", "--team_loss=0.5"]
