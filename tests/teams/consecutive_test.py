import numpy as np

from permfl_jax.teams.consecutive import consecutive


def test_blocks_of_unequal_size():
    team = consecutive.assign(None, None, (2, 4, 8, 26))
    assert team.dtype == np.int32
    assert team.tolist() == [0] * 2 + [1] * 4 + [2] * 8 + [3] * 26


def test_it_has_no_say_in_classes():
    assert consecutive.class_windows is None
