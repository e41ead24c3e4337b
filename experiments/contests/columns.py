"""The columns of a comparison: datasets and models, each a set of flags."""

import copy
import dataclasses
import re
import shlex
from typing import NamedTuple

from absl import flags

from permfl_jax import algorithms, hparams
from permfl_jax.errors import InputError
from permfl_jax.hparams import LARGEST
from permfl_jax.schedule import check_count

from .. import config

PROTOCOLS = ("fair", "paper")
# The comparison decides these; a column cannot.
_NOT_OF_A_COLUMN = ("algorithm", "workdir", "distributed")
_OWN = ("grid_lr", "tuning_rounds")
_MOST_PER_CALL = 10

flags.DEFINE_multi_string(
    "column",
    [],
    "NAME: --flag=value ...: a column of the comparison, repeatable; its flags replace "
    "the common ones. Default: one column, of the common flags.",
)
flags.DEFINE_float(
    "grid_lr",
    0.05,
    "Centre of the device step sizes in every method's grid "
    "(experiments/contests/grids.py).",
)
flags.DEFINE_integer(
    "tuning_rounds", None, "Global rounds of each tuning run. Default: --num_rounds."
)


class Column(NamedTuple):
    """One column, checked; no data is read yet.

    Attributes:
      name: of its folder and its table.
      config: its flags.
      grid_lr: centre of the step sizes that are tried.
      tuning_rounds: global rounds of each tuning run.
    """

    name: str
    config: config.Config
    grid_lr: float
    tuning_rounds: int

    def fixed(self, method: str) -> tuple[str, ...]:
        """`name=value` of each `--hparam=METHOD.name=value` of this method."""
        texts = [text.partition(".") for text in self.config.hparam]
        return tuple(rest for owner, _, rest in texts if owner == method)


def columns(values: flags.FlagValues, protocol: str) -> list[Column]:
    """All columns of parsed flags.

    Raises:
      InputError: a mistake in the common flags or in those of a column.
    """
    texts = values.column
    if not texts:
        name = f"{values.dataset}_{values.model}"
        return [column(name, values, [], protocol)]
    found: list[Column] = []
    for text in texts:
        name, colon, given = text.partition(":")
        name = name.strip()
        if not colon or not re.fullmatch(r"[\w-][\w.-]*", name):
            raise InputError(
                f"--column={text} must read --column=NAME: --flag=value ..., with a "
                "name of letters, digits, '_', '-' and '.'."
            )
        if name in [column.name for column in found]:
            raise InputError(f"--column={name} is given twice.")
        try:
            found.append(column(name, values, shlex.split(given), protocol))
        except (InputError, flags.Error, ValueError) as error:
            sentence = str(error).splitlines()[0]
            raise InputError(f"--column={name}: {sentence.rstrip('.')}.") from error
    return found


def column(
    name: str, values: flags.FlagValues, given: list[str], protocol: str
) -> Column:
    """One column, checked.

    Args:
      name: of its folder.
      values: the common flags, parsed.
      given: its own flags, which replace those.
      protocol: `fair` or `paper`.

    Raises:
      InputError: a mistake in either.
    """
    own = _overridden(values, given)
    settings = config.from_flags(own)
    _check(own, settings)
    if not own["eval_every"].present:  # curves are to be asked for
        every = 1 if protocol == "paper" else settings.num_rounds
        settings = dataclasses.replace(settings, eval_every=every)
    if not own["rounds_per_call"].present:
        settings = dataclasses.replace(settings, rounds_per_call=_per_call(settings))
    rounds = own.tuning_rounds
    rounds = settings.num_rounds if rounds is None else rounds
    return Column(name, settings, own.grid_lr, rounds)


def _overridden(values, given):
    """A copy of the flags with those of the column put over them."""
    own = flags.FlagValues()
    fields = [field.name for field in dataclasses.fields(config.Config)]
    fields.remove("team_sizes")
    for flag in (*fields, "num_teams", "devices_per_team", *_OWN):
        own[flag] = copy.deepcopy(values[flag])
    before = {flag: own[flag].present for flag in _NOT_OF_A_COLUMN}
    rest = own(["column", *given])[1:]
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}; flags start with --.")
    for flag, present in before.items():
        if own[flag].present > present:
            raise InputError(f"--{flag} is not for one column alone.")
    return own


def _check(own, settings):
    if own["algorithm"].present:
        raise InputError("--algorithm is for one method; a comparison takes --methods.")
    if settings.distributed:
        raise InputError("a comparison runs in one process, without --distributed.")
    if not 0 < own.grid_lr <= LARGEST:
        raise InputError(
            f"--grid_lr must be above 0 and at most {LARGEST:g}, got {own.grid_lr}."
        )
    if own.tuning_rounds is not None:
        check_count("--tuning_rounds", own.tuning_rounds)
    for text in settings.hparam:
        owner, dot, rest = text.partition(".")
        if not dot or owner not in algorithms.ALGORITHMS:
            raise InputError(
                f"--hparam={text} must read --hparam=METHOD.name=value here, with "
                f"METHOD one of {', '.join(algorithms.ALGORITHMS)}."
            )
        try:
            hparams.parse(algorithms.get(owner).hparams, [rest])
        except InputError as error:
            raise InputError(f"{owner}: {error}") from error


def _per_call(settings):
    """Rounds that one call can scan; it changes speed alone."""
    return max(
        count
        for count in range(1, _MOST_PER_CALL + 1)
        if settings.eval_every % count == 0 and settings.num_rounds % count == 0
    )


flags.adopt_module_key_flags(config)
