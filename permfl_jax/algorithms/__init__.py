"""Every method, by name. One file and one line here add another."""

from collections.abc import Callable
from typing import Any, NamedTuple

from permfl_jax import advice, traffic
from permfl_jax.algorithms import (
    al2gd,
    demlearn,
    ditto,
    fedavg,
    fedprox,
    finetune,
    hsgd,
    ifca,
    local,
    perfedavg,
    permfl,
    permfl_auto,
    pfedbayes,
    pfedme,
    pooled,
    scaffold,
)
from permfl_jax.errors import InputError
from permfl_jax.types import Algorithm


class Method(NamedTuple):
    """What the registry knows of a method.

    Attributes:
      factory: `(loss_fn, schedule, sampler) -> Algorithm`. Keep what it returns: that
        of another call compiles again.
      hparams: a frozen dataclass of numbers, with `traced()`.
      traffic: `(hparams, schedule, sampler) -> Traffic` of one global round.
      gradients: what a device computes in a round, in multiples of K·L.
      batch: gradients on one mini-batch; where it does not divide K·L, more than
        `gradients` says are computed.
      whole: as `traffic`, the part that an `Uplink` leaves as it is.
      advise: `(hparams, schedule, num_rounds, measured, l2) -> [str]`, warnings before
        a run, or `None` if the method has no theory to check against.
    """

    factory: Callable[..., Algorithm]
    hparams: type[Any]
    traffic: Callable[..., traffic.Traffic]
    gradients: int = 1
    batch: int = 1
    whole: Callable[..., traffic.Traffic] = traffic.none
    advise: Callable[..., list[str]] | None = None


def _two_models(*args):
    return traffic.two_tier(*args).times(2)


def _all_clusters(hparams, schedule, sampler):
    """Every cluster's model to a device, the chosen one back."""
    sent = traffic.two_tier(hparams, schedule, sampler)
    return sent._replace(device_down=sampler.num_teams * sent.device_down)


ALGORITHMS: dict[str, Method] = {
    "permfl": Method(
        permfl.permfl, permfl.HParams, traffic.three_tier, advise=advice.three_tier
    ),
    "permfl_auto": Method(
        permfl_auto.permfl_auto,
        permfl_auto.HParams,
        traffic.three_tier_read,
        whole=traffic.reading,
    ),
    "fedavg": Method(fedavg.fedavg, fedavg.HParams, traffic.two_tier),
    "perfedavg": Method(
        perfedavg.perfedavg, perfedavg.HParams, traffic.two_tier, gradients=2
    ),
    "pfedme": Method(pfedme.pfedme, pfedme.HParams, traffic.two_tier),
    "ditto": Method(ditto.ditto, ditto.HParams, traffic.two_tier, gradients=2),
    "hsgd": Method(hsgd.hsgd, hsgd.HParams, traffic.three_tier),
    "fedprox": Method(fedprox.fedprox, fedprox.HParams, traffic.two_tier),
    "scaffold": Method(scaffold.scaffold, scaffold.HParams, _two_models),
    "local": Method(local.local, local.HParams, traffic.none),
    "pooled": Method(pooled.pooled, pooled.HParams, traffic.none),
    "al2gd": Method(al2gd.al2gd, al2gd.HParams, traffic.by_coins, advise=al2gd.advise),
    "demlearn": Method(demlearn.demlearn, demlearn.HParams, traffic.two_tier),
    "ifca": Method(ifca.ifca, ifca.HParams, _all_clusters),
    "pfedbayes": Method(
        pfedbayes.pfedbayes,
        pfedbayes.HParams,
        _two_models,
        batch=pfedbayes.STEPS_PER_BATCH,
    ),
    "finetune": Method(finetune.finetune, finetune.HParams, traffic.two_tier),
}


def get(name: str) -> Method:
    """The method called `name`.

    Raises:
      InputError: no such method.
    """
    if name not in ALGORITHMS:
        raise InputError(
            f"--algorithm={name} is unknown; choose from {', '.join(ALGORITHMS)}."
        )
    return ALGORITHMS[name]
