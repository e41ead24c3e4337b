"""Which teams the server averages, against sums written out."""

import jax.numpy as jnp
import numpy as np
import pytest
from federations import classes_federation

from permfl_jax import aggregation
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

# Teams of 3, 4, 2 and 6 samples; teams 1 and 3 act, and team 2 did before.
COUNTS, TEAMS = [1, 2, 4, 1, 1, 6], [0, 0, 1, 2, 2, 3]
ALL = np.array([[1.0, 0.0], [2.0, -1.0], [4.0, 5.0], [8.0, 3.0]])
ACTED = [1, 3]
SEEN = [False, False, True, False]


def server_mean(aggregate, weights, seen):
    federation, _ = classes_federation(0, COUNTS, TEAMS)
    return aggregation.server_mean(
        Schedule(aggregate=aggregate, weights=weights),
        Sampler.of(federation, 2),
        federation,
        jnp.asarray(ALL[ACTED]),
        jnp.asarray(ALL),
        jnp.asarray(ACTED),
        seen,
    )


@pytest.mark.parametrize(
    ("weights", "team"), [("uniform", [1, 1, 1, 1]), ("samples", [3, 4, 2, 6])]
)
@pytest.mark.parametrize(
    ("aggregate", "counted"),
    [("participants", [1, 3]), ("stale", [0, 1, 2, 3]), ("stale_seen", [1, 2, 3])],
)
def test_the_mean_is_over_the_teams_that_count(aggregate, counted, weights, team):
    seen = jnp.asarray(SEEN) if aggregate == "stale_seen" else None
    mean, after = server_mean(aggregate, weights, seen)
    total = sum(team[i] * ALL[i] for i in counted) / sum(team[i] for i in counted)
    np.testing.assert_allclose(mean, total, rtol=1e-14)
    if seen is None:
        assert after is None
    else:
        assert after.tolist() == [False, True, True, True]


@pytest.mark.parametrize("aggregate", ["participants", "stale", "stale_seen"])
def test_when_all_act_there_is_one_mean(aggregate):
    federation, _ = classes_federation(0, COUNTS, TEAMS)
    schedule, sampler = Schedule(aggregate=aggregate), Sampler.of(federation)
    assert aggregation.nobody_seen(schedule, sampler) is None
    models = jnp.asarray(ALL)
    mean, seen = aggregation.server_mean(
        schedule, sampler, federation, models, models, None, None
    )
    np.testing.assert_allclose(mean, ALL.mean(axis=0), rtol=1e-14)
    assert seen is None


def test_who_was_seen_is_kept_only_where_it_is_asked_for():
    sampler = Sampler((2, 1, 2, 1), 2)
    for aggregate in ("participants", "stale"):
        assert aggregation.nobody_seen(Schedule(aggregate=aggregate), sampler) is None
    seen = aggregation.nobody_seen(Schedule(aggregate="stale_seen"), sampler)
    assert seen.tolist() == [False] * 4
