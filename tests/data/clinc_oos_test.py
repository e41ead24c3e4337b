"""CLINC150 from its real archive, and from small ones."""

import collections
import csv
import hashlib
import io
import os
import zipfile

import numpy as np
import pytest

from permfl_jax import data, errors
from permfl_jax.data import clinc_oos, text

HEADER = "text,intent,domain,intent_name,domain_name\r\n"
TINY = {
    "test.csv": '"later , please",149,9,a,b\r\n',
    "train.csv": "now,0,3,c,d\r\nsoon,7,4,e,f\r\n",
    "val.csv": "never,8,5,g,h\r\n",
    "train_ood.csv": "what,150,10,oos,oos\r\n",
}


@pytest.fixture(scope="module")
def real(real_options):
    return data.load("clinc_oos", real_options)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Options under which a small archive, written by `store`, is the published one."""

    def store(members):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, rows in members.items():
                archive.writestr(name, HEADER + rows)
        sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
        file = clinc_oos.FILE.__class__(
            **{**vars(clinc_oos.FILE), "sha256": sha256, "size": 1000}
        )
        monkeypatch.setattr(clinc_oos, "FILE", file)
        folder = tmp_path / "manual" / "clinc_oos"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clinc_oos.zip").write_bytes(stream.getvalue())
        return data.SourceOptions(
            data_dir=str(tmp_path / "prepared"),
            manual_dir=str(folder.parent),
            text_features=16,
        )

    return store


def test_shapes_types_and_scale(real):
    assert real.x.shape == (22_500, 1024)
    assert real.x.dtype == np.uint8
    assert real.y.dtype == real.group.dtype == np.int32
    assert real.num_classes == 150
    assert real.device is None
    lengths = np.linalg.norm(real.x.astype(float) * real.scale, axis=1)
    assert real.offset == 0
    np.testing.assert_allclose(lengths, 1.0, atol=0.02)


def test_classes_and_domains_are_those_published(real):
    """100 + 20 + 30 sentences of each intent; 15 intents in each of 10 domains."""
    for part, size in (
        (slice(0, 15_000), 100),
        (slice(15_000, 18_000), 20),
        (slice(18_000, 22_500), 30),
    ):
        np.testing.assert_array_equal(np.bincount(real.y[part]), [size] * 150)
    np.testing.assert_array_equal(np.bincount(real.group), [2250] * 10)
    domains = np.unique(np.stack([real.y, real.group]), axis=1)
    assert domains.shape == (2, 150)
    np.testing.assert_array_equal(np.bincount(domains[1]), [15] * 10)


def test_domain_and_intent_names_agree_with_their_numbers(real, shared_data):
    """The names in the archive, read apart from the loader, give the same groups."""
    with zipfile.ZipFile(shared_data / "clinc_oos" / "clinc_oos.zip") as archive:
        rows = [
            row
            for name in ("train.csv", "val.csv", "test.csv")
            for row in csv.DictReader(io.StringIO(archive.read(name).decode()))
        ]
    for numbers, name in ((real.y, "intent_name"), (real.group, "domain_name")):
        seen = collections.defaultdict(set)
        for number, row in zip(numbers.tolist(), rows, strict=True):
            seen[row[name]].add(number)
        assert all(len(found) == 1 for found in seen.values())
        assert len(set.union(*seen.values())) == len(seen)
    assert {row["domain_name"] for row in rows} == {
        *("auto", "banking", "credit_card", "dining", "home"),
        *("meta", "small_talk", "travel", "utility", "work"),
    }


def test_a_small_archive_in_order_and_in_scope(tiny):
    found = data.load("clinc_oos", tiny(TINY))
    assert found.y.tolist() == [0, 7, 8, 149]
    assert found.group.tolist() == [3, 4, 5, 9]
    sentences = ["now", "soon", "never", "later , please"]
    np.testing.assert_array_equal(found.x, text.hashed_ngrams(sentences, 16))


def test_another_file_is_refused_and_nothing_is_left(tiny):
    options = tiny(TINY)
    path = os.path.join(options.manual_dir, "clinc_oos", "clinc_oos.zip")
    with open(path, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(errors.InputError, match="is truncated, damaged or another"):
        data.load("clinc_oos", options)
    assert not os.path.exists(options.data_dir)
