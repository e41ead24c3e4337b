"""What global rounds cost: bytes by tier and direction, and device steps."""

from typing import Any

from permfl_jax import traffic

from .experiment import Experiment, model_shapes


def cost(experiment: Experiment, hparams: Any, rounds: int) -> dict[str, float]:
    """What so many global rounds cost: bytes by tier and direction, and device steps.

    Args:
      experiment: its method, schedule, sampler and model.
      hparams: checked hyper-parameters.
      rounds: t.
    """
    schedule, sampler = experiment.schedule, experiment.sampler
    bytes_ = bytes_sent(experiment, hparams).times(rounds)._asdict()
    bytes_ = {f"bytes/{name}": number for name, number in bytes_.items()}
    return bytes_ | {"device_steps": rounds * schedule.steps_per_round * sampler.places}


def bytes_sent(experiment: Experiment, hparams: Any) -> traffic.Traffic:
    """Bytes of one global round by tier and direction; uploads as they are coded.

    Args:
      experiment: see `cost`.
      hparams: likewise.
    """
    schedule, method = experiment.schedule, experiment.method
    models, whole = (
        count(hparams, schedule, experiment.sampler)
        for count in (method.traffic, method.whole)
    )
    model = model_shapes(experiment.task)
    return traffic.in_bytes(models, whole, schedule.uplink, model)
