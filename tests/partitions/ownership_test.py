import hashlib

import numpy as np
import pytest

from permfl_jax.errors import InputError
from permfl_jax.partitions.ownership import Ownership, digest, load, save


def rows(*lists):
    return [np.array(own, np.int64) for own in lists]


def make(train=((4, 1), (7,), (2, 9)), team=(1, 0, 1)):
    return Ownership(
        train=rows(*train),
        validation=rows([], [3], []),
        test=rows([5], [], [6, 0]),
        team=np.array(team, np.int32),
    )


def saved(path, owned):
    with open(path, "wb") as file:
        save(file, owned)
    return path


def test_the_digest_is_of_sizes_rows_and_teams():
    numbers = [2, 1, 2, 4, 1, 7, 2, 9, 0, 1, 0, 3, 1, 0, 2, 5, 6, 0, 1, 0, 1]
    expected = hashlib.sha256(np.array(numbers, "<i8").tobytes()).hexdigest()
    assert digest(make()) == expected


@pytest.mark.parametrize(
    "other",
    [
        make(train=((1, 4), (7,), (2, 9))),
        make(train=((4,), (1, 7), (2, 9))),  # the same numbers in a row
        make(team=(0, 1, 1)),
    ],
)
def test_whatever_differs_changes_the_digest(other):
    assert digest(other) != digest(make())


@pytest.mark.parametrize(
    "owned",
    [
        make(),
        make(train=((4, 1, 7), (), (2,))),
        Ownership(rows([0, 1]), rows([]), rows([2]), np.zeros(1, np.int32)),
    ],
)
def test_what_was_saved_is_loaded(tmp_path, owned):
    again = load(saved(tmp_path / "partition.npz", owned))
    assert digest(again) == digest(owned)
    for part, same in zip(owned[:3], again[:3], strict=True):
        assert [own.tolist() for own in part] == [own.tolist() for own in same]
    assert again.team.tolist() == owned.team.tolist()


def test_the_file_is_plain_arrays_and_always_the_same(tmp_path):
    one, two = (saved(tmp_path / f"{n}.npz", make()) for n in range(2))
    assert one.read_bytes() == two.read_bytes()
    with np.load(one, allow_pickle=False) as arrays:
        assert arrays["train_rows"].tolist() == [4, 1, 7, 2, 9]
        assert arrays["train_offsets"].tolist() == [0, 2, 3, 5]
        assert arrays["team"].tolist() == [1, 0, 1]
        assert len(arrays.files) == 7


def test_what_is_no_partition_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no partition file"):
        load(tmp_path / "none.npz")
    whole = saved(tmp_path / "whole.npz", make()).read_bytes()
    for content in (b"", b"text", whole[:100], whole[: len(whole) // 2]):
        (tmp_path / "odd.npz").write_bytes(content)
        with pytest.raises(InputError, match="is not a partition file"):
            load(tmp_path / "odd.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="is not a partition file"):
        load(tmp_path / "other.npz")
