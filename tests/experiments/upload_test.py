"""Flags of uploads reach the run, and the run counts what is really sent."""

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, experiment, job, session
from permfl_jax.errors import InputError
from permfl_jax.uplink import Code, Uplink

SMALL = ("--num_teams=2", "--devices_per_team=2,3", "--num_rounds=2", "--team_steps=3")
P = 650  # numbers of mclr on digits, in two arrays


def built(*given):
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *SMALL, "--device_steps=2", *given])
        return experiment.build(config.from_flags(flags.FLAGS))


def test_flags_reach_the_schedule():
    given = built(
        "--device_upload=topk:0.05",
        "--team_upload=int8",
        "--device_loss=0.1",
        "--team_loss=0.2",
        "--noupload_memory",
    )
    assert given.schedule.uplink == Uplink(
        device=Code("topk", 0.05),
        team=Code("int8"),
        device_loss=0.1,
        team_loss=0.2,
        memory=False,
    )
    assert built("--device_loss=0.1").schedule.uplink == Uplink(device_loss=0.1)
    for nothing in ((), ("--device_upload=none",), ("--team_loss=0",)):
        assert built(*nothing).schedule.uplink is None


UPLOADS = 2 * 3 * 5  # rounds, exchanges, devices


@pytest.mark.parametrize(
    ("given", "device_up", "team_up"),
    [
        ((), UPLOADS * 4 * P, 2 * 2 * 4 * P),
        (("--device_loss=0.5", "--team_loss=1"), UPLOADS * 4 * P, 2 * 2 * 4 * P),
        (("--device_upload=int8",), UPLOADS * (P + 2 * 4), 2 * 2 * 4 * P),
        (("--team_upload=topk:0.1",), UPLOADS * 4 * P, 2 * 2 * 65 * 8),
        # Readings of the gradient are whole: one more from each device in a round.
        (
            ("--algorithm=permfl_auto", "--device_upload=topk:0.1"),
            UPLOADS * 65 * 8 + 2 * 5 * 4 * P,
            2 * 2 * 4 * P,
        ),
        (("--algorithm=fedavg", "--device_upload=int8"), 2 * 5 * (P + 2 * 4), 0),
    ],
)
def test_bytes_are_those_of_the_code_and_models_come_down_whole(
    given, device_up, team_up
):
    """Also of uploads that are lost: they were sent."""
    run = built(*given)
    begin = session.Begin(job.start(run), [], 0.0)
    last = job.train(run, begin, lambda row: None, lambda *_: None)[-1]
    assert last["bytes/device_up"] == device_up
    assert last["bytes/team_up"] == team_up
    two_tier = "fedavg" in str(given)
    assert last["bytes/device_down"] == (2 * 5 if two_tier else UPLOADS) * 4 * P
    assert last["bytes/team_down"] == (0 if two_tier else 2 * 2 * 4 * P)


def test_the_floor_sends_nothing_and_so_codes_nothing():
    coded, plain = (built(*g) for g in (("--device_upload=topk:0.01",), ()))
    assert job.floors(coded) == job.floors(plain)


BAD = [
    (
        ["--device_upload=int4"],
        "--device_upload=int4 must be none, int8 or topk:SHARE ",
    ),
    (
        ["--team_upload=topk:0"],
        "--team_upload=topk:0 must be none, int8 or topk:SHARE ",
    ),
    (
        ["--device_loss=-0.1"],
        "--device_loss must be a probability from 0 to 1, got -0.1",
    ),
    (["--team_loss=nan"], "--team_loss must be a probability from 0 to 1, got nan"),
    (
        ["--noupload_memory", "--team_loss=0.1"],
        "--noupload_memory needs an upload that ",
    ),
    (
        ["--algorithm=fedavg", "--team_upload=int8"],
        "--team_upload=int8 cannot be used with --algorithm=fedavg: of its uploads, ",
    ),
    (
        ["--algorithm=demlearn", "--device_loss=0.1"],
        "--device_loss=0.1 cannot be used with --algorithm=demlearn: of its uploads, ",
    ),
]


@pytest.mark.parametrize(("given", "sentence"), BAD)
def test_mistakes_get_one_sentence(given, sentence):
    with pytest.raises(InputError) as refused:
        built(*given)
    said = str(refused.value)
    assert said.startswith(sentence)
    assert said.endswith(".")
    assert "\n" not in said
