"""Teams are as alike as they can be."""

import numpy as np
from label_groups import groups

from permfl_jax.teams.adversarial import adversarial


def test_every_team_has_the_same_mix():
    truth, counts = groups(0, (8, 8, 8, 8))
    team = adversarial.assign(np.random.default_rng(1), counts, (8, 8, 8, 8))
    mix = np.zeros((4, 4), int)
    np.add.at(mix, (team, truth), 1)
    assert (mix == 2).all()


def test_unequal_teams_get_their_share():
    truth, counts = groups(0, (12, 12))
    team = adversarial.assign(np.random.default_rng(1), counts, (6, 18))
    mix = np.zeros((2, 2), int)
    np.add.at(mix, (team, truth), 1)
    assert np.abs(mix - [[3, 3], [9, 9]]).max() <= 1
