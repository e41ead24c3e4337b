"""What holds for every partition of the registry, and for what they are asked."""

import draws
import numpy as np
import pytest

from permfl_jax.errors import InputError
from permfl_jax.partitions import FOLLOW_WINDOWS, MAKE_TEAMS, PARTITIONS
from permfl_jax.partitions.partition import PartitionOptions, sliding_windows

SKEWED = ("dirichlet", "domains", "quantity", "two_level_dirichlet")
EVERYTHING = {*SKEWED, "natural"}  # the law leaves nothing out


def run(name, class_sizes, team_sizes, seed=0, **numbers):
    num_samples, num_devices = sum(class_sizes), sum(team_sizes)
    examples = draws.labels(
        class_sizes,
        device=np.arange(num_samples) % num_devices,
        group=np.arange(num_samples) % len(team_sizes),
    )
    if name in FOLLOW_WINDOWS:
        width = numbers.get("classes_per_device", 2)
        numbers["class_windows"] = sliding_windows(num_devices, width, len(class_sizes))
    return draws.run(name, examples, team_sizes, seed, **numbers), examples


@pytest.mark.parametrize("name", sorted(PARTITIONS))
@pytest.mark.parametrize(
    ("class_sizes", "team_sizes", "classes_per_device"),
    [
        ([180] * 10, (5, 5, 5, 5), 2),
        ([180] * 10, (2, 4, 8, 26), 2),
        ([600] * 100, (5, 5, 5, 5), 3),
        ([50, 0, 900, 30], (2, 1, 3), 1),
        ([500], (3, 4), 1),
        ([100, 200], (1,), 2),
        ([30, 30], (1, 1), 1),
    ],
)
def test_any_shape_is_cut_well(name, class_sizes, team_sizes, classes_per_device):
    if name == "paper" and 0 in class_sizes:
        with pytest.raises(InputError, match="Class 1 has 0 samples"):
            run(name, class_sizes, team_sizes, classes_per_device=classes_per_device)
        return
    partition, examples = run(
        name, class_sizes, team_sizes, classes_per_device=classes_per_device
    )
    draws.check(partition, examples, sum(team_sizes), name in EVERYTHING)


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_the_seed_decides_everything(name):
    one, again, other = (run(name, [180] * 10, (4, 6), s)[0] for s in (0, 0, 1))
    assert all(map(np.array_equal, one.indices, again.indices))
    assert one.report == again.report
    same = all(map(np.array_equal, one.indices, other.indices))
    assert same == (name == "natural")  # which draws nothing


@pytest.mark.parametrize("name", SKEWED)
@pytest.mark.parametrize("min_samples", [1, 10, 45, 10_000])
def test_nobody_is_below_the_minimum(name, min_samples):
    """1,800 samples, 40 devices: 45 each is the most that can be promised."""
    strong = {"dirichlet_alpha": 0.01, "team_alpha": 0.01, "device_alpha": 0.01}
    for seed in range(5):
        partition, examples = run(
            name,
            [180] * 10,
            (10,) * 4,
            seed,
            min_samples=min_samples,
            quantity_sigma=4.0,
            **strong,
        )
        draws.check(partition, examples, 40)
        sizes = np.array([len(rows) for rows in partition.indices])
        equal_share = 45
        if name in MAKE_TEAMS:  # each fills up its own
            equal_share = min(sizes[i : i + 10].sum() // 10 for i in range(0, 40, 10))
            assert equal_share >= 44
        floor = min(min_samples, equal_share)
        assert sizes.min() >= floor
        if min_samples > 1 and name != "two_level_dirichlet":
            assert partition.report["samples_moved"] > 0
            assert sizes.min() == floor


@pytest.mark.parametrize("name", SKEWED)
def test_more_devices_than_samples_are_refused(name):
    with pytest.raises(
        InputError, match=r"each needs at least one.*--devices_per_team"
    ):
        run(name, [3, 3], (4, 4))


@pytest.mark.parametrize("name", SKEWED)
def test_as_many_devices_as_samples(name):
    partition, examples = run(name, [4, 4], (8,))
    draws.check(partition, examples, 8)
    assert partition.report["samples_max"] == 1


@pytest.mark.parametrize("name", ["dirichlet", "domains", "two_level_dirichlet"])
def test_a_large_alpha_is_iid(name):
    """Every device has every class in proportion; rounding is within a row or two."""
    large = {"dirichlet_alpha": 1e6, "team_alpha": 1e6, "device_alpha": 1e6}
    partition, examples = run(name, [300, 600, 1200], (2, 3), **large)
    counts = draws.class_counts(partition, examples)
    expected = np.tile(np.array([300, 600, 1200]) / 5, (5, 1))
    if name == "domains":  # groups are by lot: half of each class in each team
        expected = np.repeat([[75, 150, 300], [50, 100, 200]], [2, 3], axis=0)
        slack = 0.2 * expected
    else:
        slack = np.maximum(0.01 * expected, 3)
    assert (np.abs(counts - expected) <= slack).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dirichlet_alpha": 0.0}, "--dirichlet_alpha=0.0 .* 1e-06 to 1e"),
        ({"dirichlet_alpha": float("nan")}, "--dirichlet_alpha=nan"),
        ({"team_alpha": -1.0}, "--team_alpha=-1.0"),
        ({"device_alpha": float("inf")}, "--device_alpha=inf"),
        ({"quantity_sigma": -0.5}, r"--quantity_sigma=-0.5 .* 0 to 100"),
        ({"min_samples": 0}, "--min_samples=0 .* at least 1"),
        ({"team_sizes": ()}, r"Teams of \[\] .*--devices_per_team"),
        ({"team_sizes": (3, 0)}, r"Teams of \[3, 0\] .*--devices_per_team"),
    ],
)
def test_numbers_out_of_range_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        PartitionOptions(**{"team_sizes": (2,), **given})


def test_registry_keys_are_names():
    assert all(name == scheme.__name__ for name, scheme in PARTITIONS.items())
    assert set(PARTITIONS) >= FOLLOW_WINDOWS | MAKE_TEAMS
