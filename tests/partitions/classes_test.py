import draws
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permfl_jax.errors import InputError
from permfl_jax.partitions.classes import hold


@settings(deadline=None, max_examples=100)
@given(
    num_devices=st.integers(1, 40),
    num_classes=st.integers(1, 12),
    per_device=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_every_class_is_used_equally_often(num_devices, num_classes, per_device, seed):
    per_device = min(per_device, num_classes)
    held = hold(np.random.default_rng(seed), num_devices, per_device, num_classes)
    assert held.shape == (num_devices, num_classes)
    assert (held.sum(axis=1) == per_device).all()
    assert np.ptp(held.sum(axis=0)) <= 1


def test_every_device_and_class_meet_equally_often():
    """Probability k / C for every pair, and (D k / C choose 2) pairs of holders."""
    met = np.stack([hold(np.random.default_rng(s), 5, 2, 4) for s in range(3000)])
    draws.check_moments(met.reshape(3000, -1).astype(float), 0.5, 0.25)
    # Device order is by lot: neighbours share classes no more than others.
    shared = [(met[:, 0] & met[:, d]).sum(axis=1) for d in (1, 4)]
    difference = shared[0] - shared[1]
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(3000)


def test_classes_are_split_equally_among_their_holders():
    examples = draws.labels([103, 0, 97, 200, 51])
    partition = draws.run("classes", examples, (4, 4), classes_per_device=2)
    draws.check(partition, examples, 8)
    counts = draws.class_counts(partition, examples)
    assert ((counts > 0).sum(axis=1) == 2).all()
    holders = (counts > 0).sum(axis=0)
    assert holders.tolist() == [4, 0, 4, 4, 4]
    for label in (0, 2, 3, 4):
        parts = counts[counts[:, label] > 0, label]
        assert np.ptp(parts) <= 1


def test_fewer_slots_than_classes_leave_classes_out():
    examples = draws.labels([50] * 100)
    partition = draws.run("classes", examples, (4,), classes_per_device=3)
    draws.check(partition, examples, 4, everything=False)
    assert partition.report["samples_used"] == 4 * 3 * 50
    assert ((draws.class_counts(partition, examples) > 0).sum(axis=1) == 3).all()


def test_all_classes_for_all_devices_is_an_equal_share():
    examples = draws.labels([40, 80])
    partition = draws.run("classes", examples, (4,), classes_per_device=2)
    assert draws.class_counts(partition, examples).tolist() == [[10, 20]] * 4


def test_as_many_holders_as_samples():
    examples = draws.labels([7, 7])
    partition = draws.run("classes", examples, (14,), classes_per_device=1)
    assert partition.report["samples_max"] == 1


@pytest.mark.parametrize("given", [0, 3])
def test_a_wrong_number_of_classes_is_refused(given):
    with pytest.raises(InputError, match=f"--classes_per_device={given} .* 1 to 2"):
        draws.run("classes", draws.labels([9, 0, 9]), (2,), classes_per_device=given)


def test_more_holders_than_samples_are_refused():
    message = "Class 1 has 2 samples.* 3 devices.*--devices_per_team"
    with pytest.raises(InputError, match=message):
        draws.run("classes", draws.labels([90, 2]), (6,), classes_per_device=1)
