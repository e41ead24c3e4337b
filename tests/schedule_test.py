import dataclasses

import pytest

from permfl_jax import schedule
from permfl_jax.errors import InputError
from permfl_jax.schedule import Schedule


def test_defaults_are_the_papers_loops():
    default = Schedule()
    assert (default.team_steps, default.device_steps) == (10, 20)
    assert (default.batching, default.weights) == ("shuffle", "uniform")
    assert default.aggregate == "participants"


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", ["team_steps", "device_steps", "batch_size"])
def test_counts_start_at_one(name, value):
    with pytest.raises(InputError) as caught:
        Schedule(**{name: value})
    assert (
        str(caught.value)
        == f"--{name} must be at least 1 and at most 10000000, got {value}."
    )
    assert getattr(Schedule(**{name: 1}), name) == 1


def test_no_batch_size_is_full_batch():
    assert Schedule(batch_size=None).batch_size is None


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("batching", schedule.BATCHINGS),
        ("weights", schedule.WEIGHTS),
        ("aggregate", schedule.AGGREGATES),
    ],
)
def test_choices_are_listed_when_a_wrong_one_is_given(name, allowed):
    for value in allowed:
        assert getattr(Schedule(**{name: value}), name) == value
    with pytest.raises(InputError) as caught:
        Schedule(**{name: "other"})
    assert str(caught.value) == (
        f"--{name} must be one of {', '.join(allowed)}; got 'other'."
    )


def test_a_schedule_can_be_a_static_argument():
    assert hash(Schedule()) == hash(Schedule())
    assert Schedule() == Schedule()
    assert Schedule() != Schedule(team_steps=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schedule().team_steps = 3
