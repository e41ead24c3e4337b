"""From a config to checked, built objects; knows no method by name."""

from typing import Any, NamedTuple

import jax
import numpy as np

from permfl_jax import (
    algorithms,
    assemble,
    data,
    federation,
    hosts,
    hparams,
    keys,
    models,
    placement,
    probes,
    scores,
    task,
)
from permfl_jax.data import long_tail
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.partitions.ownership import Ownership
from permfl_jax.schedule import Schedule
from permfl_jax.types import Algorithm, Federation
from permfl_jax.uplink import Link, upload_bytes

from . import machine
from .config import Config


class Experiment(NamedTuple):
    """Everything a run needs, built and checked.

    Attributes:
      config: the flags.
      federation: devices, samples, teams.
      report: what the partition used.
      ownership: who has which rows of the dataset.
      task: model, loss, scores.
      schedule: K, L, batches, weights.
      sampler: who takes part.
      method: registry entry of the algorithm.
      hparams: its checked hyper-parameters.
      algorithm: its functions.
      majority_accuracy: on test, of guessing each device's commonest training label.
    """

    config: Config
    federation: Federation
    report: dict[str, Any]
    ownership: Ownership
    task: task.Task
    schedule: Schedule
    sampler: Sampler
    method: algorithms.Method
    hparams: Any
    algorithm: Algorithm
    majority_accuracy: float

    def check_partition(self, workdir: str, recorded: dict[str, Any] | None) -> None:
        """That a run which was begun before has these samples and owners.

        Args:
          workdir: its folder.
          recorded: its config.json, `None` if it was not begun.

        Raises:
          InputError: it was begun on other data.
        """
        before = (_partition(recorded) or {}).get("sha256")
        if recorded is not None and before != self.report["sha256"]:
            raise InputError(
                f"--workdir={workdir} holds a run on other data: its partition is "
                f"{before!s:.12}, that of --dataset={self.config.dataset} now "
                f"{self.report['sha256'][:12]}; choose another folder."
            )

    def check_alike(self) -> None:
        """That all processes have these rows and teams; all of them must ask.

        Raises:
          InputError: this one has others than the first.
        """
        own = int(self.report["sha256"][:7], 16)
        if hosts.of_first(own) != own:
            raise InputError(
                f"process {jax.process_index()} has another partition than the first: "
                "give all the same data, flags and kind of machine."
            )


def build(config: Config, recorded: dict[str, Any] | None = None) -> Experiment:
    """Checks everything that can be checked before data is read, then reads it.

    Args:
      config: the flags.
      recorded: config.json of a run that was begun before. Its teams are taken where
        they were found by training, which another machine rounds otherwise.

    Raises:
      InputError: any user's mistake.
    """
    method = algorithms.get(config.algorithm)
    chosen = hparams.parse(method.hparams, config.hparam)
    schedule = Schedule(
        team_steps=config.team_steps,
        device_steps=config.device_steps,
        batch_size=config.batch_size,
        batching=config.batching,
        weights=config.weights,
        aggregate=config.aggregate,
        keep_personal=config.keep_personal,
        uplink=config.uplink,
    )
    sampler = Sampler(
        config.team_sizes, config.teams_per_round, config.devices_per_round
    )
    rounds_per_call(config)
    examples = _load(config)
    classify = _task(config, examples)
    _check_room(config, classify)
    look = _look(config, classify, schedule)
    devices, report, ownership = _deal(config, examples, look, _partition(recorded))
    if not np.asarray(devices.test.count).any():
        raise InputError(
            f"--test_fraction={config.test_fraction} leaves no device a test sample; "
            "raise it, or give devices more samples."
        )
    return Experiment(
        config=config,
        federation=devices,
        report=report,
        ownership=ownership,
        task=classify,
        schedule=schedule,
        sampler=sampler,
        method=method,
        hparams=chosen,
        algorithm=method.factory(classify.loss, schedule, sampler),
        majority_accuracy=_majority(devices, examples.num_classes),
    )


def _partition(recorded):
    """What config.json says of the data; `None` if it does not."""
    found = (recorded or {}).get("partition")
    return found if isinstance(found, dict) else None


def _check_room(config, classify):
    """The models alone, before any is made; a system without room kills, untold."""
    link = Link.of(config.uplink, "device")
    remembers = link is not None and link.remembers
    kept = 1 + config.num_devices * (config.keep_personal + remembers)
    model, there = model_bytes(classify), hosts.memory()
    if jax.default_backend() == "cpu" and kept * model > there:
        raise InputError(
            f"--model={config.model} takes {model / 1e9:.3g} GB, {kept} of them "
            f"are kept and this machine has {there / 1e9:.3g}: lower --hidden, or give "
            "--nokeep_personal, which stores no device's model, and --noupload_memory "
            "where --device_upload is coded."
        )


def model_bytes(classify: task.Task) -> int:
    """Of a model as it is in memory."""
    return upload_bytes(None, model_shapes(classify))


def model_shapes(classify: task.Task) -> Any:
    """Its arrays' shapes and dtypes."""
    return jax.eval_shape(classify.init, jax.random.key(0))


def _look(config, classify, schedule):
    """How rules of formation see models; nothing is trained before one asks."""

    def look(sees, devices):
        key = jax.random.key(config.seed)
        params = classify.init(keys.init_key(key))
        return probes.Probe(
            classify.loss,
            schedule,
            params,
            key,
            config.formation_lr,
            config.formation_rounds,
        ).look(sees, devices)

    return look


def _deal(config, examples, look, known):
    with machine.on_host():
        return assemble.build(
            examples,
            team_sizes=config.team_sizes,
            partition=config.partition,
            formation=config.team_formation,
            validation_fraction=config.validation_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
            look=look,
            known=known,
            classes_per_device=config.classes_per_device,
            dirichlet_alpha=config.dirichlet_alpha,
            team_alpha=config.team_alpha,
            device_alpha=config.device_alpha,
            quantity_sigma=config.quantity_sigma,
            min_samples=config.min_samples,
        )


def spread(experiment: Experiment) -> Experiment:
    """The same with its federation on the chips that compute it.

    Raises:
      InputError: --chips asks for more than there are.
    """
    config, there = experiment.config, jax.devices()
    chips = there if config.chips is None else there[: config.chips]
    if config.chips and len(chips) < config.chips:
        raise InputError(
            f"--chips={config.chips} were asked for, but there are {len(there)}."
        )
    mesh = placement.choose_mesh(experiment.federation, chips)
    placed = placement.place(experiment.federation, mesh, config.device_chunk)
    return experiment._replace(federation=placed)


def _majority(devices, num_classes):
    counts = [
        federation.class_counts(samples, num_classes)
        for samples in (devices.train, devices.test)
    ]
    return scores.majority_accuracy(*counts)


def _load(config):
    options = data.SourceOptions(
        seed=config.seed,
        num_devices=config.num_devices,
        alpha=config.synthetic_alpha,
        beta=config.synthetic_beta,
        text_features=config.text_features,
        data_dir=config.data_dir,
        manual_dir=config.manual_dir,
    )
    examples = data.load(config.dataset, options)
    return long_tail.thin(examples, config.class_imbalance, config.seed)


def _task(config, examples):
    spec = models.ModelSpec(
        dataset=config.dataset,
        sample_shape=examples.x.shape[1:],
        num_classes=examples.num_classes,
        hidden=config.hidden,
    )
    module = models.build(config.model, spec)
    return task.classification(
        module,
        examples.x[0],
        scale=examples.scale,
        offset=examples.offset,
        l2=config.l2,
        random=models.is_random(module),
    )


def rounds_per_call(config: Config) -> int:
    """The checked flag.

    Raises:
      InputError: it does not divide the rounds between two evaluations.
    """
    per_call = config.rounds_per_call
    if config.eval_every % per_call or config.num_rounds % per_call:
        raise InputError(
            f"--rounds_per_call={per_call} must divide --eval_every="
            f"{config.eval_every} and --num_rounds={config.num_rounds}."
        )
    return per_call
