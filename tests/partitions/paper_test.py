import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permfl_jax.data.examples import Examples
from permfl_jax.errors import InputError
from permfl_jax.partitions.paper import paper
from permfl_jax.partitions.partition import PartitionOptions, sliding_windows

MNIST = [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
DIGITS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def make_examples(class_sizes, seed=0):
    y = np.repeat(np.arange(len(class_sizes), dtype=np.int32), class_sizes)
    y = np.random.default_rng(seed).permutation(y)
    return Examples(np.zeros((len(y), 1)), y, len(class_sizes), 1.0, 0.0)


def run(class_sizes, num_devices, classes_per_device, seed=0):
    examples = make_examples(class_sizes)
    windows = sliding_windows(num_devices, classes_per_device, examples.num_classes)
    options = PartitionOptions(team_sizes=(num_devices,), class_windows=windows)
    return paper(np.random.default_rng([seed, 1]), examples, options), examples, windows


def check(partition, examples, windows):
    """What holds for every partition by windows."""
    indices, report = partition
    everything = np.concatenate(indices)
    assert len(indices) == len(windows)
    assert len(np.unique(everything)) == len(everything)
    assert everything.min() >= 0
    assert everything.max() < len(examples.y)
    for rows, window in zip(indices, windows, strict=True):
        assert rows.dtype == np.int64
        # Every slot got a sample, and no class came in from outside.
        assert set(examples.y[rows]) == set(window)
    sizes = [len(rows) for rows in indices]
    assert report["samples_used"] == sum(sizes) == len(everything)
    assert report["samples_available"] == len(examples.y)
    assert report["samples_min"] == min(sizes)
    assert report["samples_median"] == np.median(sizes)
    assert report["samples_max"] == max(sizes)
    assert report["slots"] == windows.size
    assert 0 <= report["slots_cut"] <= windows.size


class AuthorsDraws:
    """The authors' generators and seeds for MNIST, in their order of drawing."""

    def __init__(self):
        self._numpy = np.random.RandomState(9)
        self._python = random.Random(5)

    def lognormal(self, mean, sigma, shape):
        return self._numpy.lognormal(mean, sigma, shape)

    def integers(self, low, high, shape, endpoint):
        assert endpoint
        draws = [self._python.randint(low, high) for _ in range(np.prod(shape))]
        return np.reshape(draws, shape)

    def permutation(self, rows):
        return rows


def test_the_authors_draws_give_the_authors_sizes():
    """SPEC B.3, measured by running their code on MNIST with 40 devices."""
    windows = sliding_windows(40, 2, 10)
    options = PartitionOptions(team_sizes=(40,), class_windows=windows)
    report = paper(AuthorsDraws(), make_examples(MNIST), options).report
    assert report == {
        "samples_used": 39_669,
        "samples_available": 70_000,
        "samples_min": 701,
        "samples_median": 979.5,
        "samples_max": 1_468,
        "slots": 80,
        "slots_cut": 0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_mnist_sizes_agree_in_law(seed):
    """One draw of the power law: 10 % on the median, 30 % on its sum, tails free."""
    partition, examples, windows = run([7000] * 10, 40, 2, seed)
    check(partition, examples, windows)
    report = partition.report
    np.testing.assert_allclose(report["samples_median"], 979.5, rtol=0.10)
    np.testing.assert_allclose(report["samples_used"], 39_669, rtol=0.30)
    # Two slots of 10 + 300 is the least that is possible if nothing is cut.
    assert report["samples_min"] >= 620 or report["slots_cut"]
    assert report["slots_cut"] <= 4


@pytest.mark.parametrize("seed", range(10))
def test_digits_use_a_comparable_share(seed):
    partition, examples, windows = run(DIGITS, 20, 2, seed)
    check(partition, examples, windows)
    assert 0.5 <= partition.report["samples_used"] / 1797 <= 0.9
    assert partition.report["samples_min"] >= 20  # two slots, 10 sure in each


@pytest.mark.parametrize(
    ("class_sizes", "num_devices", "classes_per_device"),
    [
        ([600] * 100, 350, 3),  # CIFAR100 as in the paper
        (DIGITS, 40, 2),
        (DIGITS, 100, 3),
        (DIGITS, 10, 2),
        ([7000] * 10, 20, 2),
        ([7000] * 10, 200, 2),
    ],
)
def test_other_shapes_use_a_comparable_share(
    class_sizes, num_devices, classes_per_device
):
    partition, examples, windows = run(class_sizes, num_devices, classes_per_device)
    check(partition, examples, windows)
    assert 0.5 <= partition.report["samples_used"] / sum(class_sizes) <= 0.9


@settings(deadline=None, max_examples=60)
@given(
    class_sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    num_devices=st.integers(1, 45),
    classes_per_device=st.integers(1, 6),
    seed=st.integers(0, 100),
)
def test_any_shape_is_cut_well_or_refused(
    class_sizes, num_devices, classes_per_device, seed
):
    num_classes = len(class_sizes)
    classes_per_device = min(classes_per_device, num_classes)
    windows = sliding_windows(num_devices, classes_per_device, num_classes)
    slots = np.bincount(windows.ravel(), minlength=num_classes)
    if (slots > class_sizes).any():
        with pytest.raises(InputError, match="--devices_per_team"):
            run(class_sizes, num_devices, classes_per_device, seed)
    else:
        check(*run(class_sizes, num_devices, classes_per_device, seed))


def test_more_devices_than_samples_of_a_class():
    """The power law has nothing to give; every slot still gets something."""
    check(*run(DIGITS, 900, 1))


def test_windows_may_be_any():
    windows = np.array([[0, 5], [5, 9], [9, 0]])
    options = PartitionOptions(team_sizes=(3,), class_windows=windows)
    examples = make_examples(DIGITS)
    partition = paper(np.random.default_rng(0), examples, options)
    check(partition, examples, windows)


def test_a_short_class_is_shared_and_counted():
    """8 devices of class 0 have 20 samples, of which each is sure of 2."""
    partition, examples, windows = run([20] + [200] * 9, 40, 2)
    check(partition, examples, windows)
    counts = [(examples.y[rows] == 0).sum() for rows in partition.indices]
    assert sum(counts) == 20
    assert min(count for count in counts if count) == 2
    assert partition.report["slots_cut"] >= 7


def test_the_seed_decides_everything():
    one, again, other = (run(DIGITS, 20, 2, seed)[0] for seed in (0, 0, 1))
    assert all(map(np.array_equal, one.indices, again.indices))
    assert one.report == again.report
    assert not all(map(np.array_equal, one.indices, other.indices))


def test_samples_of_a_class_are_drawn_in_random_order():
    partition, examples, _ = run(MNIST, 40, 2)
    rows = partition.indices[0]
    first = rows[examples.y[rows] == 0]
    assert (np.diff(first) < 0).any()
    assert first.max() > 0.9 * 70_000


def test_more_slots_than_samples_is_refused():
    message = "Class 0 has 3 samples.* 8 devices.*--devices_per_team.*--classes_per"
    with pytest.raises(InputError, match=message):
        run([3] + [200] * 9, 40, 2)


@pytest.mark.parametrize("classes_per_device", [-1, 0, 11])
def test_sliding_windows_refuse(classes_per_device):
    message = f"--classes_per_device={classes_per_device} .* 1 to 10"
    with pytest.raises(InputError, match=message):
        sliding_windows(4, classes_per_device, 10)


def test_sliding_windows():
    assert sliding_windows(3, 2, 10).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert sliding_windows(12, 3, 10)[9:].tolist() == [[9, 0, 1], [0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("num_devices", [1, 5, 10, 20, 40])
def test_few_devices_of_many_classes_share_what_they_hold(num_devices):
    """CIFAR100's sizes: half of the classes held is used, no slot rules its device."""
    cut, commonest = [], []
    for seed in range(20):
        partition, examples, windows = run([600] * 100, num_devices, 3, seed)
        check(partition, examples, windows)
        available = 600 * len(np.unique(windows))
        assert 0.3 <= partition.report["samples_used"] / available <= 0.95
        cut.append(partition.report["slots_cut"] / windows.size)
        counts = [np.bincount(examples.y[rows]) for rows in partition.indices]
        commonest += [count.max() / count.sum() for count in counts]
    assert np.mean(cut) < 0.15
    assert np.median(commonest) < 0.6  # of three classes
