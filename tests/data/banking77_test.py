"""BANKING77 from its real files, and from small ones."""

import csv
import json

import numpy as np
import pytest

from permfl_jax import data, errors
from permfl_jax.data import text

CATEGORIES = [f"intent_{i}" for i in range(77)]


@pytest.fixture(scope="module")
def real(real_options):
    return data.load("banking77", real_options)


@pytest.fixture
def tiny(tmp_path):
    """Small files and the options that find them; has `options` and `folder`."""
    folder = tmp_path / "banking77"
    folder.mkdir()
    (folder / "categories.json").write_text(json.dumps(CATEGORIES))
    (folder / "train.csv").write_text(
        'text,category\n"Where, pray,\nis it?",intent_5\nHère,intent_76\n',
        encoding="utf-8",
    )
    (folder / "test.csv").write_text("text,category\nGone,intent_0\n")
    return folder, data.SourceOptions(manual_dir=str(tmp_path), text_features=32)


def test_shapes_and_types(real):
    assert real.x.shape == (13_083, 1024)
    assert real.x.dtype == np.uint8
    assert real.y.dtype == np.int32
    assert real.num_classes == 77
    assert real.device is None
    assert real.group is None


def test_classes_are_those_published(real):
    """10,003 questions to train on, 40 of each intent to test on."""
    np.testing.assert_array_equal(np.bincount(real.y[10_003:]), [40] * 77)
    assert len(np.unique(real.y[:10_003])) == 77


def test_labels_are_places_in_the_list_of_categories(real, shared_data):
    folder = shared_data / "banking77"
    names = json.loads((folder / "categories.json").read_text())
    with (folder / "test.csv").open(newline="", encoding="utf-8") as stream:
        expected = [row["category"] for row in csv.DictReader(stream)]
    assert [names[label] for label in real.y[10_003:]] == expected


def test_small_files_in_order(tiny):
    found = data.load("banking77", tiny[1])
    assert found.y.tolist() == [5, 76, 0]
    sentences = ["Where, pray,\nis it?", "Hère", "Gone"]
    np.testing.assert_array_equal(found.x, text.hashed_ngrams(sentences, 32))


DAMAGE = {
    "no header": ("train.csv", b"a,intent_5\n", "must begin with the line text,cat"),
    "empty": ("test.csv", b"", "must begin with the line text,category, got ''"),
    "columns": ("test.csv", b'"a\nb",' + b"c" * 999, r"category, got 'a\nb,ccc"),
    "cut row": ("train.csv", b"text,category\nhello", "has 1 columns instead of 2 in"),
    "no utf-8": ("train.csv", b"text,category\n\xff,a\n", "is no table of UTF-8 text"),
    "long": ("test.csv", b"text,category\n" + b"x" * 200_000, "no table of UTF-8 text"),
    "category": ("test.csv", b"text,category\na,sun\n", "the category 'sun', which"),
    "no json": ("categories.json", b"[", "categories.json is no JSON"),
    "deep json": ("categories.json", b"[" * 100_000, "categories.json is no JSON"),
    "numbers": ("categories.json", b"[1, 2]", "a list of 77 different names"),
    "twice": ("categories.json", json.dumps(["a"] * 77).encode(), "77 different names"),
    "object": ("categories.json", b"{}", "a list of 77 different names"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_sentence_that_names_it(tiny, damage):
    filename, content, expected = DAMAGE[damage]
    folder, options = tiny
    (folder / filename).write_bytes(content)
    with pytest.raises(errors.InputError) as caught:
        data.load("banking77", options)
    message = str(caught.value)
    assert expected in message
    assert str(folder / filename) in message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < len(str(folder)) + 200


def test_a_missing_file_is_one_sentence(tiny):
    folder, options = tiny
    (folder / "test.csv").unlink()
    for given in (options, data.SourceOptions()):
        with pytest.raises(errors.InputError) as caught:
            data.load("banking77", given)
        assert str(caught.value) == (
            f"dataset banking77 is not in --manual_dir={given.manual_dir}: give "
            "--manual_dir=DIR with train.csv, test.csv, categories.json in "
            "DIR/banking77."
        )
