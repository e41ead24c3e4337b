import numpy as np
import pytest

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.natural import natural
from permfl_jax.partitions.partition import PartitionOptions


def run(device, num_devices):
    zeros = np.zeros(6, np.int32)
    examples = Examples(zeros, zeros, 2, 1.0, 0.0, device)
    options = PartitionOptions(num_devices=num_devices)
    return natural(np.random.default_rng(0), examples, options)


def test_owners_keep_what_is_theirs():
    partition = run(np.array([7, 2, 7, 9, 2, 7], np.int32), 3)
    assert [rows.tolist() for rows in partition.indices] == [[1, 4], [0, 2, 5], [3]]
    assert all(rows.dtype == np.int64 for rows in partition.indices)
    assert partition.report == {
        "samples_used": 6,
        "samples_available": 6,
        "samples_min": 1,
        "samples_median": 2.0,
        "samples_max": 3,
        "slots": 0,
        "slots_cut": 0,
    }


def test_another_number_of_devices_is_refused():
    message = "4 devices.*--partition=natural.*exactly 3.*--devices_per_team"
    with pytest.raises(InputError, match=message):
        run(np.array([7, 2, 7, 9, 2, 7], np.int32), 4)


def test_a_dataset_without_owners_is_refused():
    with pytest.raises(InputError, match=r"--partition=natural.*no owners"):
        run(None, 3)
