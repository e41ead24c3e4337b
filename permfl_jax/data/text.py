"""Sentences as vectors of fixed size: a hashed bag of words and of pairs of words.

A feature is a word or two neighbouring words of the lower-cased sentence; a word is a
run of letters and digits. Its place is CRC-32 modulo the size: no vocabulary has to be
learnt, shared or stored. Counts get no signs, so that a vector fits into bytes: it is
scaled to length 1 and stored as `round(255 v)`.
"""

import itertools
import re
import zlib
from collections.abc import Sequence

import numpy as np

from permfl_jax.data.examples import Examples

_WORD = re.compile(r"[^\W_]+")
# Sentences at a time while in float: 1,024 of the widest take 256 MiB.
_BLOCK = 1024


def hashed_ngrams(sentences: Sequence[str], num_features: int) -> np.ndarray:
    """`[S, F]` uint8; a row is 255 times a vector of length 1, or 0 without words."""
    x = np.zeros((len(sentences), num_features), np.uint8)
    for start in range(0, len(sentences), _BLOCK):
        block = sentences[start : start + _BLOCK]
        counts = np.zeros((len(block), num_features), np.float32)
        for row, sentence in zip(counts, block, strict=True):
            for ngram in ngrams(sentence):
                row[zlib.crc32(ngram.encode()) % num_features] += 1
        lengths = np.linalg.norm(counts, axis=1, keepdims=True)
        x[start : start + _BLOCK] = np.rint(255 * counts / np.maximum(lengths, 1))
    return x


def ngrams(sentence: str) -> list[str]:
    """The words of a sentence, then its pairs of neighbouring words."""
    words = _WORD.findall(sentence.lower())
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def examples(
    sentences: Sequence[str],
    labels: Sequence[int],
    *,
    num_classes: int,
    num_features: int,
    group: Sequence[int] | None = None,
) -> Examples:
    """What a dataset of labelled sentences hands over; the model sees unit vectors."""
    return Examples(
        x=hashed_ngrams(sentences, num_features),
        y=np.asarray(labels, np.int32),
        num_classes=num_classes,
        scale=1 / 255,
        offset=0.0,
        group=None if group is None else np.asarray(group, np.int32),
    )
