"""FEMNIST from small files in LEAF's format; no real ones can be had offline."""

import json
import os
import types

import numpy as np
import pytest
from absl import logging

from permfl_jax import data, errors


def write(path, writers):
    """LEAF's file for `{user: (x [n, 784] numbers, y [n])}`."""
    content = {
        "users": list(writers),
        "num_samples": [len(y) for _, y in writers.values()],
        "user_data": {
            user: {"x": np.asarray(x).tolist(), "y": np.asarray(y).tolist()}
            for user, (x, y) in writers.items()
        },
    }
    path.write_text(json.dumps(content))


@pytest.fixture
def tiny(tmp_path):
    """Two files, of writers of 3 and 1 samples and of one with 2.

    Has `folder`, `options`, `x` (levels of grey) and `y`.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (6, 784), dtype=np.uint8)
    y = np.array([61, 0, 7, 7, 35, 10])
    folder = tmp_path / "manual" / "femnist"
    folder.mkdir(parents=True)
    # By name, 10 comes before 2.
    write(
        folder / "all_data_2.json",
        {"f1_b": (x[:3] / 255, y[:3]), "f0_a": (x[3:4] / 255, y[3:4])},
    )
    write(folder / "all_data_10.json", {"f2": (x[4:] / 255, y[4:])})
    (folder / "readme.json").write_text("nothing of LEAF's")
    options = data.SourceOptions(
        data_dir=str(tmp_path / "prepared"), manual_dir=str(folder.parent)
    )
    return types.SimpleNamespace(folder=folder, options=options, x=x, y=y)


def load(tiny):
    return data.load("femnist", tiny.options)


@pytest.fixture
def warned(monkeypatch):
    """The warnings logged during the test."""
    lines = []
    monkeypatch.setattr(
        logging, "warning", lambda message, *args: lines.append(message % args)
    )
    return lines


def test_writers_in_the_order_of_the_files(tiny):
    found = load(tiny)
    np.testing.assert_array_equal(found.x, tiny.x.reshape(-1, 28, 28, 1))
    np.testing.assert_array_equal(found.y, tiny.y)
    np.testing.assert_array_equal(found.device, [0, 0, 0, 1, 2, 2])
    assert found.x.dtype == np.uint8
    assert found.y.dtype == found.device.dtype == np.int32
    assert found.num_classes == 62
    assert found.group is None


@pytest.mark.parametrize("exact", [True, False])
def test_the_model_sees_minus_one_to_one_stored_as_bytes_or_not(tiny, exact):
    """One value that is no level of grey, and all are stored in float32."""
    x = tiny.x[4:] / 255
    if not exact:
        x[0, 5] = 0.1234567
    write(tiny.folder / "all_data_10.json", {"f2": (x, tiny.y[4:])})
    found = load(tiny)
    assert found.x.dtype == (np.uint8 if exact else np.float32)
    seen = found.x.reshape(6, 784) * found.scale + found.offset
    expected = np.concatenate([tiny.x[:4] / 255, x]) * 2 - 1
    np.testing.assert_allclose(seen, expected, atol=2e-7)


def test_every_level_of_grey_is_exact(tiny):
    """As LEAF writes them: k / 255, in decimal."""
    levels = np.resize(np.arange(256, dtype=np.uint8), (1, 784))
    for path in tiny.folder.glob("all_data_*.json"):
        path.unlink()
    write(tiny.folder / "all_data_0.json", {"f": (levels / 255, [1])})
    np.testing.assert_array_equal(load(tiny).x.reshape(1, 784), levels)


def test_whole_numbers_are_numbers_and_idle_writers_hold_nothing(tiny):
    x = np.zeros((1, 784), int)
    x[0, 3] = 1
    write(tiny.folder / "all_data_11.json", {"idle": (x[:0], []), "f3": (x, [1])})
    found = load(tiny)
    assert found.device[-1] == 4
    np.testing.assert_array_equal(found.x[-1].reshape(784), 255 * x[0])


def test_prepared_arrays_are_used_without_the_files(tiny, monkeypatch, warned):
    first = load(tiny)
    monkeypatch.setattr("permfl_jax.data.leaf.read", None)
    assert os.listdir(tiny.options.data_dir) == ["femnist.npz"]
    for options in (
        tiny.options,
        data.SourceOptions(data_dir=tiny.options.data_dir),
    ):
        again = data.load("femnist", options)
        for field in ("x", "y", "device"):
            np.testing.assert_array_equal(getattr(again, field), getattr(first, field))
    assert not warned


def test_other_files_are_prepared_again(tiny, warned):
    load(tiny)
    (tiny.folder / "all_data_2.json").unlink()
    found = load(tiny)
    np.testing.assert_array_equal(found.y, tiny.y[4:])
    assert "the raw files are others now" in warned[0]
    write(tiny.folder / "all_data_10.json", {"f2": (tiny.x[:1] / 255, [3])})
    assert load(tiny).y.tolist() == [3]
    assert len(warned) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"x": np.zeros((6, 28, 28), np.uint8)},
        {"x": np.zeros((6, 28, 28, 1), np.float64)},
        {"y": np.full(6, 62, np.int32)},
        {"y": np.zeros(0, np.int32), "x": np.zeros((0, 28, 28, 1), np.uint8)},
        {"y": np.int32(3)},
        {"device": np.zeros(5, np.int32)},
        {"device": np.full(6, -1, np.int32)},
    ],
    ids=str,
)
def test_damaged_arrays_are_prepared_again(tiny, warned, change):
    load(tiny)
    path = os.path.join(tiny.options.data_dir, "femnist.npz")
    with np.load(path) as stored:
        arrays = {**stored, **change}
    np.savez(path, **arrays)
    np.testing.assert_array_equal(load(tiny).y, tiny.y)
    assert len(warned) == 1


def test_no_files_is_one_sentence(tmp_path):
    options = data.SourceOptions(data_dir=str(tmp_path), manual_dir=str(tmp_path))
    with pytest.raises(errors.InputError) as caught:
        data.load("femnist", options)
    assert str(caught.value) == (
        f"dataset femnist is neither prepared in --data_dir={tmp_path}, nor as raw "
        f"files in --manual_dir={tmp_path}: give --manual_dir=DIR with LEAF's "
        "all_data_*.json in DIR/femnist."
    )


GOOD_ROW = [0.0] * 784


def users(**changes):
    """A good file of one user `u` with one sample, but for what is changed."""
    good = {
        "users": ["u"],
        "num_samples": [1],
        "user_data": {"u": {"x": [GOOD_ROW], "y": [1]}},
    }
    return json.dumps({**good, **changes})


def samples(x=None, y=None, num_samples=1):
    """A good file, but for the user's samples."""
    one = {"x": [GOOD_ROW] if x is None else x, "y": [1] if y is None else y}
    return users(num_samples=[num_samples], user_data={"u": one})


def first(value):
    """A row of pixels that begins with `value`."""
    return [[value, *GOOD_ROW[1:]]]


DEEP = 0.0
for _ in range(40):
    DEEP = [DEEP]

MALFORMED = {
    "empty": "",
    "truncated": users()[:-30],
    "truncated in a number": users()[:900],
    "two documents": users() + users(),
    "no utf-8": b'{"users": ["\xff"]}',
    "null bytes": b"\x00" * 50,
    "nested beyond all bounds": "[" * 200_000,
    "a list": "[]",
    "null": "null",
    "a number": "1",
    "a number of 5,000 digits": "1" * 5000,
    "no users": json.dumps({"num_samples": [], "user_data": {}}),
    "no one": users(users=[], num_samples=[], user_data={}),
    "users is a string": users(users="u"),
    "users are numbers": users(users=[1]),
    "users are lists": users(users=[["u"]]),
    "a user twice": users(users=["u", "u"], num_samples=[1, 1]),
    "a user without data": users(users=["u", "v"], num_samples=[1, 1]),
    "data of nobody": users(users=[], num_samples=[]),
    "user_data is a list": users(user_data=[["u", {}]]),
    "user_data is null": users(user_data=None),
    "a user is a list": users(user_data={"u": [[GOOD_ROW], [1]]}),
    "a user without x": users(user_data={"u": {"y": [1]}}),
    "a user without y": users(user_data={"u": {"x": [GOOD_ROW]}}),
    "x is an object": samples(x={"0": GOOD_ROW}),
    "x is a string": samples(x="0" * 784),
    "y is a number": samples(y=1),
    "num_samples is a number": users(num_samples=1),
    "num_samples is short": users(num_samples=[]),
    "num_samples is huge": samples(num_samples=10**18),
    "num_samples is beyond all types": samples(num_samples=10**400),
    "num_samples is negative": samples(num_samples=-1),
    "num_samples is a string": samples(num_samples="1"),
    "num_samples is true": samples(num_samples=True),
    "num_samples is 1.0": samples(num_samples=1.0),
    "num_samples is NaN": samples(num_samples=float("nan")),
    "num_samples is an object": samples(num_samples={"a" * 999: 1}),
    "a name without end": users(user_data={"u" * 10**5: 1}, users=["u" * 10**5]),
    "more x than y": samples(x=[GOOD_ROW] * 2),
    "more y than x": samples(y=[1, 1]),
    "no sample at all": samples(x=[], y=[], num_samples=0),
    "x is flat": samples(x=GOOD_ROW, y=[1] * 784, num_samples=784),
    "x is a picture": samples(x=[[[0.0] * 28] * 28]),
    "a short row": samples(x=[GOOD_ROW[1:]]),
    "a long row": samples(x=[[*GOOD_ROW, 0.0]]),
    "rows of unequal length": samples(
        x=[GOOD_ROW, GOOD_ROW[1:]], y=[1, 1], num_samples=2
    ),
    "a row is null": samples(x=[None]),
    "a row is a string": samples(x=["0" * 784]),
    "a pixel is a string": samples(x=first("0.5")),
    "all pixels are strings": samples(x=[["0.5"] * 784]),
    "a pixel is null": samples(x=first(None)),
    "a pixel is true": samples(x=first(True)),
    "a pixel is a list": samples(x=first([0.0])),
    "a pixel is deeply nested": samples(x=first(DEEP)),
    "a pixel is an object": samples(x=first({})),
    "a pixel is NaN": samples(x=first(float("nan"))),
    "a pixel is infinite": samples(x=first(float("inf"))),
    "a pixel is 1e999": samples(x=first("?")).replace('"?"', "1e999"),
    "a pixel is a huge whole number": samples(x=first(10**400)),
    "a pixel is 255": samples(x=first(255)),
    "a pixel is below 0": samples(x=first(-1e-9)),
    "a label is 62": samples(y=[62]),
    "a label is -1": samples(y=[-1]),
    "a label is 0.5": samples(y=[0.5]),
    "a label is NaN": samples(y=[float("nan")]),
    "a label is infinite": samples(y=[float("inf")]),
    "a label is a string": samples(y=["1"]),
    "a label is null": samples(y=[None]),
    "a label is true": samples(y=[True]),
    "a label is a list": samples(y=[[1]]),
    "a label is huge": samples(y=[10**400]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_one_sentence_that_names_it(tmp_path, name):
    content = MALFORMED[name]
    path = tmp_path / "femnist" / "all_data_0.json"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = data.SourceOptions(
        data_dir=str(tmp_path / "prepared"), manual_dir=str(tmp_path)
    )
    with pytest.raises(errors.InputError) as caught:
        data.load("femnist", options)
    message = str(caught.value)
    assert str(path.parent) in message
    assert str(path) in message or "without a sample" in message
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < len(str(path)) + 300
    assert os.listdir(options.data_dir) == []


def test_the_file_that_is_spoilt_above_is_good():
    """Else all those tests could pass for another reason."""
    assert json.loads(users()) == json.loads(samples())


def test_a_good_file_of_one_sample_loads(tmp_path):
    (tmp_path / "femnist").mkdir()
    (tmp_path / "femnist" / "all_data_0.json").write_text(users())
    options = data.SourceOptions(data_dir=str(tmp_path), manual_dir=str(tmp_path))
    found = data.load("femnist", options)
    assert found.y.tolist() == [1]
    assert not found.x.any()


def test_cut_anywhere_a_file_is_an_input_error(tmp_path):
    """And with any byte of its structure replaced by another."""
    (tmp_path / "femnist").mkdir()
    path = tmp_path / "femnist" / "all_data_0.json"
    options = data.SourceOptions(data_dir=str(tmp_path), manual_dir=str(tmp_path))
    good = users().encode()
    rng = np.random.default_rng(0)
    cuts = [good[:end] for end in (*range(0, 90, 3), *range(len(good) - 40, len(good)))]
    flips = []
    for place in rng.choice([*range(70), *range(len(good) - 12, len(good))], 60):
        other = bytearray(good)
        other[place] = rng.integers(0, 256)
        flips.append(bytes(other))
    refused = 0
    for content in cuts + flips:
        path.write_bytes(content)
        try:
            data.load("femnist", options)
        except errors.InputError:
            refused += 1
    assert refused >= len(cuts)


def test_a_user_in_two_files_is_refused(tiny):
    write(tiny.folder / "all_data_11.json", {"f2": (tiny.x[:1] / 255, [3])})
    with pytest.raises(errors.InputError) as caught:
        load(tiny)
    assert str(caught.value) == (
        f"{tiny.folder / 'all_data_11.json'} has user 'f2', whom another of the files "
        "has too."
    )


def test_a_link_to_nowhere_is_one_sentence(tiny):
    (tiny.folder / "all_data_3.json").symlink_to(tiny.folder / "gone")
    with pytest.raises(errors.InputError, match=r"all_data_3.json cannot be read: No"):
        load(tiny)


def test_a_folder_in_place_of_a_file_is_one_sentence(tiny):
    (tiny.folder / "all_data_3.json").mkdir()
    with pytest.raises(
        errors.InputError, match=r"all_data_3.json cannot be read: Is a"
    ):
        load(tiny)
