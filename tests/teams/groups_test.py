"""Full teams: near ones first, those who lose most first."""

import itertools

import numpy as np
import pytest

from permfl_jax.teams import groups


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4), (1, 2, 3), (6,)])
def test_it_is_near_the_best_way_to_fill(sizes):
    """Total distance over that of the best of all ways, for teams in any order."""
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(len(sizes)), sizes)
    ratios = []
    for _ in range(20):
        distance = rng.random((6, len(sizes)))
        team = groups.fill(distance, sizes)
        assert np.bincount(team, minlength=len(sizes)).tolist() == list(sizes)
        totals = [
            distance[np.arange(6), np.array(names)[list(way)]].sum()
            for names in itertools.permutations(range(len(sizes)))
            for way in set(itertools.permutations(places.tolist()))
        ]
        ours = min(
            distance[np.arange(6), np.array(names)[team]].sum()
            for names in itertools.permutations(range(len(sizes)))
        )
        ratios.append(ours / min(totals))
    assert np.mean(ratios) < 1.3


def test_who_loses_most_chooses_first():
    distance = np.array([[0.0, 0.1], [0.0, 5.0], [0.0, 1.0]])
    assert groups.fill(distance, (2, 1)).tolist() == [1, 0, 0]
