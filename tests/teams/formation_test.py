import importlib

import numpy as np
import pytest

from permfl_jax.teams import FORMATIONS
from permfl_jax.teams.formation import Formation


@pytest.mark.parametrize("name", sorted(FORMATIONS))
def test_the_key_is_the_name_of_the_rule_and_its_module(name):
    module = importlib.import_module(f"permfl_jax.teams.{name}")
    assert getattr(module, name) is FORMATIONS[name]
    assert isinstance(FORMATIONS[name], Formation)


@pytest.mark.parametrize("team_sizes", [(2, 4, 8, 26), (1,), (3, 1)])
@pytest.mark.parametrize("name", sorted(FORMATIONS))
def test_every_rule_fills_every_team(name, team_sizes):
    columns = len(team_sizes) if FORMATIONS[name].sees == "losses" else 10
    counts = np.random.default_rng(0).integers(0, 9, (sum(team_sizes), columns))
    before = counts.copy()
    team = FORMATIONS[name].assign(np.random.default_rng(1), counts, team_sizes)
    assert team.dtype == np.int32
    assert np.bincount(team, minlength=len(team_sizes)).tolist() == list(team_sizes)
    assert (counts == before).all()
