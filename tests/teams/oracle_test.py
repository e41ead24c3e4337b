"""The teams of the partition, where it makes some."""

import numpy as np
import pytest

from permfl_jax import assemble, data
from permfl_jax.errors import InputError
from permfl_jax.teams.oracle import oracle


def test_they_are_the_blocks_that_the_partition_made():
    team = oracle.assign(None, np.ones((5, 2), int), (2, 3))
    assert team.tolist() == [0, 0, 1, 1, 1]


def test_a_partition_without_teams_has_no_truth():
    digits = data.load("digits", data.SourceOptions())

    def build(partition):
        return assemble.build(
            digits, team_sizes=(2, 3), partition=partition, formation="oracle"
        )

    report = build("two_level_dirichlet").report
    assert report["team"] == [0, 0, 1, 1, 1]
    assert report["reveals"].startswith("its true team")
    with pytest.raises(
        InputError,
        match=r"--team_formation=oracle needs teams that are true, which --partition="
        r"paper does not make; choose --partition from \['domains', 'two_level",
    ):
        build("paper")
