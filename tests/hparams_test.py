import dataclasses
import math

import pytest

from permfl_jax import hparams
from permfl_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knobs:
    device_lr: float = 0.5
    team_prox: float = 2.0
    device_pull: float | None = None


def test_what_is_not_named_keeps_its_default():
    assert hparams.parse(Knobs, []) == Knobs()
    assert hparams.parse(Knobs, ["team_prox=1.5"]) == Knobs(team_prox=1.5)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1.0), ("0.25", 0.25), ("1e-3", 1e-3), ("-2", -2.0), ("+.5", 0.5)],
)
def test_numbers_are_read_as_python_reads_them(text, value):
    parsed = hparams.parse(Knobs, [f"device_lr={text}", f"device_pull={text}"])
    assert parsed == Knobs(device_lr=value, device_pull=value)
    assert type(parsed.device_lr) is float


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["device_lr"], "--hparam=device_lr must read --hparam=name=value."),
        (
            ["beta=1"],
            "--hparam=beta=1: there is no hyper-parameter 'beta' here; "
            "choose from device_lr, team_prox, device_pull.",
        ),
        (
            ["=1"],
            "--hparam==1: there is no hyper-parameter '' here; "
            "choose from device_lr, team_prox, device_pull.",
        ),
        (
            ["team_prox=1", "team_prox=1"],
            "--hparam=team_prox=1: team_prox is given twice.",
        ),
        (["team_prox=big"], "--hparam=team_prox=big: 'big' is not a finite number."),
        (["team_prox="], "--hparam=team_prox=: '' is not a finite number."),
        (["team_prox=1=2"], "--hparam=team_prox=1=2: '1=2' is not a finite number."),
        (["team_prox=nan"], "--hparam=team_prox=nan: 'nan' is not a finite number."),
        (["team_prox=-inf"], "--hparam=team_prox=-inf: '-inf' is not a finite number."),
        (
            ["team_prox=1e999"],
            "--hparam=team_prox=1e999: '1e999' is not a finite number.",
        ),
    ],
)
def test_each_mistake_is_one_sentence(settings, sentence):
    with pytest.raises(InputError) as caught:
        hparams.parse(Knobs, settings)
    assert str(caught.value) == sentence
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_ranges():
    hparams.require("a", None)
    hparams.require("a", 0.0)
    hparams.require("a", 1e-9, above=0)
    with pytest.raises(InputError, match=r"^--hparam=a must be at least 0, got -1\.$"):
        hparams.require("a", -1)
    with pytest.raises(InputError, match=r"^--hparam=a must be above 0, got 0\.$"):
        hparams.require("a", 0, above=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("above", [None, 0.0])
def test_infinities_are_out_of_every_range(value, above):
    with pytest.raises(
        InputError, match=r"^--hparam=a must be a number of at most 1e\+30, got"
    ):
        hparams.require("a", value, above=above)
