import numpy as np
import pytest

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.natural import natural
from permfl_jax.partitions.partition import PartitionOptions

DEVICE = np.array([7, 2, 7, 9, 2, 7], np.int32)


def run(device, num_devices):
    zeros = np.zeros(6, np.int32)
    examples = Examples(zeros, zeros, 2, 1.0, 0.0, device)
    options = PartitionOptions(team_sizes=(num_devices,))
    return natural(np.random.default_rng(0), examples, options)


def test_owners_keep_what_is_theirs():
    partition = run(DEVICE, 3)
    assert [rows.tolist() for rows in partition.indices] == [[1, 4], [0, 2, 5], [3]]
    assert all(rows.dtype == np.int64 for rows in partition.indices)
    assert partition.report == {
        "samples_used": 6,
        "samples_available": 6,
        "samples_min": 1,
        "samples_median": 2.0,
        "samples_max": 3,
        "owners_left_out": 0,
    }


@pytest.mark.parametrize(
    ("num_devices", "expected"), [(1, [[0, 2, 5]]), (2, [[1, 4], [0, 2, 5]])]
)
def test_the_largest_owners_take_part(num_devices, expected):
    partition = run(DEVICE, num_devices)
    assert [rows.tolist() for rows in partition.indices] == expected
    assert partition.report["owners_left_out"] == 3 - num_devices
    assert partition.report["samples_used"] == sum(map(len, expected))


def test_of_equal_owners_the_smaller_numbers_take_part():
    partition = run(np.array([5, 3, 4, 4, 3, 5], np.int32), 2)
    assert [rows.tolist() for rows in partition.indices] == [[1, 4], [2, 3]]


def test_more_devices_than_owners_are_refused():
    message = "4 devices.*--partition=natural.*at most 3.*--devices_per_team"
    with pytest.raises(InputError, match=message):
        run(DEVICE, 4)


def test_a_dataset_without_owners_is_refused():
    with pytest.raises(InputError, match=r"--partition=natural.*no owners"):
        run(None, 3)
