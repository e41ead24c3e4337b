import numpy as np
import pytest

from permfl_jax.errors import InputError
from permfl_jax.teams.average_case import average_case


def class_sets(team_sizes, classes_per_device, num_classes):
    windows = average_case.class_windows(team_sizes, classes_per_device, num_classes)
    team = average_case.assign(None, None, team_sizes)
    assert windows.dtype == np.int64
    assert windows.shape == (sum(team_sizes), classes_per_device)
    assert all(len(set(window)) == classes_per_device for window in windows.tolist())
    return [set(windows[team == i].ravel().tolist()) for i in range(len(team_sizes))]


def test_table_2():
    sets = class_sets((20, 20), 2, 10)
    assert sets == [{0, 1, 2, 3, 4, 5, 6}, {5, 6, 7, 8, 9, 0, 1}]


def test_windows_go_round():
    windows = average_case.class_windows((1, 7), 2, 10)
    expected = [[5, 6], [6, 7], [7, 8], [8, 9], [9, 0], [0, 1], [1, 5]]
    assert windows.tolist() == [[0, 1], *expected]


def test_ragged_teams_share_some_classes():
    sets = class_sets((6, 7, 8, 26), 3, 10)
    assert sets == [{0, 1, 2, 3, 4}, {2, 3, 4, 5, 6}, {5, 6, 7, 8, 9}, {7, 8, 9, 0, 1}]


@pytest.mark.parametrize(
    ("team_sizes", "classes_per_device", "num_classes"),
    [((20,), 10, 10), ((3, 4), 3, 3), ((1,) * 12, 3, 10)],
)
def test_a_block_is_at_most_all_classes(team_sizes, classes_per_device, num_classes):
    sets = class_sets(team_sizes, classes_per_device, num_classes)
    assert all(len(classes) <= num_classes for classes in sets)


@pytest.mark.parametrize(
    ("team_sizes", "classes_per_device", "fewest"), [((20, 20), 8, 7), ((4,) * 4, 0, 5)]
)
def test_too_few_classes_are_refused(team_sizes, classes_per_device, fewest):
    message = f"--classes_per_device={classes_per_device} .* {fewest} classes"
    with pytest.raises(InputError, match=message):
        class_sets(team_sizes, classes_per_device, 10)
