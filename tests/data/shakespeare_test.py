"""Speakers and their characters, from the real file and from a small one."""

import collections
import dataclasses
import hashlib

import numpy as np
import pytest

from permfl_jax import data
from permfl_jax.data import shakespeare

LONG = "All the world's a stage! " * 60
TEXT = f"B:\n{LONG}\nand all\n\nA:\nshort\n\nC:\n{LONG[::-1]}\n\nB:\nmerely\n\n"


@pytest.fixture(scope="module")
def real(real_options):
    return data.load("shakespeare", real_options)


@pytest.fixture(scope="module")
def real_text(shared_data):
    path = shared_data / "tiny_shakespeare" / "input.txt"
    return path.read_text(encoding="ascii")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    content = TEXT.encode()
    file = dataclasses.replace(
        shakespeare.FILE, sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(shakespeare, "FILE", file)
    (tmp_path / "tiny_shakespeare").mkdir()
    (tmp_path / "tiny_shakespeare" / "input.txt").write_bytes(content)
    return data.load("shakespeare", data.SourceOptions(manual_dir=str(tmp_path)))


def test_shapes_types_and_size(real):
    assert real.x.shape == (len(real.y), 80)
    assert real.x.dtype == np.uint8
    assert real.y.dtype == real.device.dtype == np.int32
    assert (real.scale, real.offset) == (1.0, 0.0)
    assert real.group is None
    pool = real.x.nbytes + real.y.nbytes + real.device.nbytes
    assert 20e6 < pool < 30e6


def test_speakers_are_those_with_a_thousand_characters(real):
    np.testing.assert_array_equal(np.unique(real.device), np.arange(141))
    assert (np.diff(real.device) >= 0).all()
    # At least ceil((1000 - 80) / 4).
    assert np.bincount(real.device).min() >= 230


def test_the_codes_are_the_characters_of_the_file(real, real_text):
    characters = sorted(set(real_text))
    assert real.num_classes == len(characters) == 65
    assert real.x.max() < 65
    assert real.y.max() < 65
    first = "".join(characters[code] for code in real.x[0])
    # The First Citizen speaks first, and his second speech begins within the window.
    assert first == (
        "Before we proceed any further, hear me speak.\n"
        "You are all resolved rather to die"
    )
    assert characters[real.y[0]] == " "


def test_a_small_play_character_by_character(tiny):
    """A plain loop over the two speakers with enough to say, in order of appearance."""
    characters = sorted(set(TEXT))
    spoken = [f"{LONG}\nand all\nmerely", LONG[::-1]]
    expected = [
        (lines[start : start + 80], lines[start + 80], owner)
        for owner, lines in enumerate(spoken)
        for start in range(0, len(lines) - 80, 4)
    ]
    assert [
        ("".join(characters[code] for code in x), characters[y], owner)
        for x, y, owner in zip(tiny.x, tiny.y, tiny.device, strict=True)
    ] == expected
    assert tiny.num_classes == len(characters)


def test_nothing_that_was_spoken_is_lost(real_text):
    """Line by line: a line after an empty one is a name, each other one is spoken."""
    said = collections.Counter()
    name = None
    for line in real_text.split("\n"):
        if not line:
            name = None
        elif name is None:
            assert line.endswith(":")
            name = line[:-1]
        else:
            said[name] += len(line) + 1
    spoken = shakespeare.speakers(real_text)
    assert list(spoken) == list(said)
    assert {name: len(lines) + 1 for name, lines in spoken.items()} == said


def test_names_without_words_and_extra_empty_lines_count_for_nothing():
    text = "\nA:\none\n\nB:\n\n\nA:\n\nA:\ntwo\nthree\n"
    assert shakespeare.speakers(text) == {"A": "one\ntwo\nthree"}
