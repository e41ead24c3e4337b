import numpy as np
import pytest

from permfl_jax.errors import InputError
from permfl_jax.teams.worst_case import worst_case


def class_sets(team_sizes, classes_per_device, num_classes):
    windows = worst_case.class_windows(team_sizes, classes_per_device, num_classes)
    team = worst_case.assign(None, None, team_sizes)
    assert windows.dtype == np.int64
    assert windows.shape == (sum(team_sizes), classes_per_device)
    assert all(len(set(window)) == classes_per_device for window in windows.tolist())
    return [set(windows[team == i].ravel().tolist()) for i in range(len(team_sizes))]


def test_table_2():
    assert class_sets((20, 20), 2, 10) == [{0, 1, 2, 3, 4}, {5, 6, 7, 8, 9}]


def test_windows_slide_inside_the_block():
    windows = worst_case.class_windows((3, 6), 2, 10)
    assert windows[:3].tolist() == [[0, 1], [1, 2], [2, 3]]
    assert windows[3:].tolist() == [[5, 6], [6, 7], [7, 8], [8, 9], [9, 5], [5, 6]]


def test_ragged_teams_share_no_class():
    sets = class_sets((2, 4, 8, 26), 2, 10)
    assert sets == [{0, 1, 2}, {3, 4, 5}, {6, 7}, {8, 9}]


@pytest.mark.parametrize(
    ("team_sizes", "classes_per_device", "fewest"),
    [((20, 20), 6, 5), ((10,) * 4, 3, 2), ((1,) * 11, 1, 0), ((20, 20), 0, 5)],
)
def test_too_few_classes_are_refused(team_sizes, classes_per_device, fewest):
    message = (
        f"--classes_per_device={classes_per_device} .*--team_formation .* {fewest} "
        "classes.*--devices_per_team"
    )
    with pytest.raises(InputError, match=message):
        class_sets(team_sizes, classes_per_device, 10)
