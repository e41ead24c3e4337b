"""Hashed words and pairs of words against a dictionary per sentence."""

import math
import zlib

import numpy as np
import pytest

from permfl_jax import data, errors
from permfl_jax.data import text

SENTENCES = [
    "Where's my CARD?",
    "the card, the card",
    "",
    "?!",
    "Überweisung 2 mal",
    "snake_case",
]


def by_hand(sentence, num_features):
    """One vector, in Python numbers."""
    cleaned = "".join(c if c.isalnum() else " " for c in sentence.lower())
    words = cleaned.split()
    vector = [0.0] * num_features
    for i, word in enumerate(words):
        vector[zlib.crc32(word.encode()) % num_features] += 1
        if i:
            pair = f"{words[i - 1]} {word}"
            vector[zlib.crc32(pair.encode()) % num_features] += 1
    length = math.sqrt(sum(value * value for value in vector))
    return [round(255 * value / length) if length else 0 for value in vector]


def test_words_then_pairs():
    assert text.ngrams("The card's gone") == [
        *("the", "card", "s", "gone"),
        *("the card", "card s", "s gone"),
    ]
    assert text.ngrams("snake_case") == ["snake", "case", "snake case"]


@pytest.mark.parametrize("num_features", [1, 7, 1024, 65_536])
def test_vectors_are_those_made_by_hand(num_features):
    found = text.hashed_ngrams(SENTENCES, num_features)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [by_hand(s, num_features) for s in SENTENCES])


def test_blocks_do_not_show(monkeypatch):
    whole = text.hashed_ngrams(SENTENCES, 50)
    monkeypatch.setattr(text, "_BLOCK", 4)
    np.testing.assert_array_equal(text.hashed_ngrams(SENTENCES, 50), whole)


def test_the_model_sees_vectors_of_length_one():
    """To 1 in 510 for each of the features that are not 0, 3 and 5 of them."""
    made = text.examples(SENTENCES[:2], [1, 0], num_classes=3, num_features=65_536)
    lengths = np.linalg.norm(made.x * made.scale + made.offset, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=math.sqrt(7) / 510)
    assert made.y.dtype == np.int32
    assert made.y.tolist() == [1, 0]
    assert made.num_classes == 3
    assert made.group is None


@pytest.mark.parametrize("num_features", [0, -1, 65_537])
def test_sizes_out_of_range_are_one_sentence(num_features):
    with pytest.raises(errors.InputError) as caught:
        data.SourceOptions(text_features=num_features)
    assert str(caught.value) == (
        f"--text_features must be 1 to 65536, got {num_features}."
    )
