"""Devices go where their loss is least, while there is room."""

import numpy as np

from permfl_jax.teams.loss_choice import loss_choice


def test_each_device_goes_where_its_loss_is_least():
    losses = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 9.0], [2.0, 1.9]])
    team = loss_choice.assign(np.random.default_rng(0), losses, (2, 2))
    assert team.tolist() == [0, 1, 0, 1]


def test_who_loses_least_gives_way():
    losses = np.array([[1.0, 1.1], [1.0, 5.0], [1.0, 7.0]])
    team = loss_choice.assign(np.random.default_rng(0), losses, (2, 1))
    assert team.tolist() == [1, 0, 0]
