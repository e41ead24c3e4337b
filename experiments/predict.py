"""Applies the models of a finished run: to samples, a new device, a new team.

    python -m experiments.predict --workdir=runs/quickstart --model_of=device:3

Without --input it takes the run's own test samples. A new device starts from its team's
model, --from=team:1 --personalise=FILE; a new team from the global one,
--new_team=FILE,FILE,... with a file for each device. Files of samples are .npz with
arrays x and y. The dataset of the run has to be there, as it was.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from permfl_jax import deploy
from permfl_jax.errors import InputError
from permfl_jax.schedule import check_count
from permfl_jax.types import Params

from . import machine, program, reopen, sample_files
from .finished import Finished
from .sample_files import SampleSet

flags.DEFINE_string(
    "model_of",
    None,
    "device:N, as the run left it; adapted:N, made now from the models above it; "
    "team:N; or server.",
)
flags.DEFINE_string("input", None, "Samples to predict; accuracy too if it holds y.")
flags.DEFINE_string(
    "predictions", None, "File for labels and probabilities, .npz or .csv."
)
flags.DEFINE_string("personalise", None, "Samples of a new device, with labels.")
flags.DEFINE_string(
    "from", None, "What the new device starts from: team:N or server. Default: server."
)
flags.DEFINE_integer(
    "personal_steps", None, "Steps of the new device. Default: L of the run."
)
flags.DEFINE_list(
    "new_team",
    [],
    "Samples of the devices of a new team, a file for each; --personalise then starts "
    "from its model.",
)
flags.DEFINE_string("save_model", None, "File for the parameters by name, .npz.")
flags.DEFINE_string(
    "export",
    None,
    "File for the model as one function, by jax.export; needs the extra `export`.",
)

_OWN, _LEARNED = "test samples of the run", "samples that it learned from"


class Subject(NamedTuple):
    """A model, and what it came from.

    Attributes:
      name: for the reader.
      params: its numbers.
      before: name and numbers of the model it started from, or `None`.
      scored: samples to score it on, and what they are.
    """

    name: str
    params: Params
    before: tuple[str, Params] | None
    scored: tuple[SampleSet, str]


def run(values: flags.FlagValues) -> None:
    """Does what the flags ask for, and prints accuracies.

    Raises:
      InputError: a user's mistake.
    """
    _check(values)
    found = reopen.read(values.workdir, values.data_dir, values.manual_dir)
    last, planned = int(found.state.round), found.built.config.num_rounds
    if last < planned:
        print(f"the run is not finished: its models are of round {last} of {planned}")
    given = None
    if values.input is not None:
        given = sample_files.read("--input", values.input, found.form)
    subject = _subject(values, found, given)
    samples, what = subject.scored
    if subject.before is not None:
        _score(found, *subject.before, samples, what)
    logits = _score(found, subject.name, subject.params, samples, what)
    _write(values, found, subject.params, logits, samples)


def _check(values):
    """What needs no run, before one is read."""
    if values.workdir is None:
        raise InputError("--workdir=FOLDER must name the folder of a run.")
    new = bool(values.new_team) or values.personalise is not None
    if (values.model_of is None) != new:
        raise InputError(
            "Give either --model_of, or --personalise or --new_team; "
            f"{'both' if new else 'none'} of them were given."
        )
    start = values["from"].value
    if start is not None and (values.personalise is None or values.new_team):
        raise InputError(
            f"--from={start} goes with --personalise alone: a new team starts from the "
            "global model."
        )
    if values.personal_steps is not None:
        check_count("--personal_steps", values.personal_steps)
    name, allowed = values.predictions, sample_files.PREDICTIONS
    if name is not None and not name.endswith(allowed):
        raise InputError(f"--predictions={name} must end in {' or '.join(allowed)}.")
    if values.save_model is not None and not values.save_model.endswith(".npz"):
        raise InputError(f"--save_model={values.save_model} must end in .npz.")
    if values.export is not None:
        deploy.require_export()


def _subject(values, found: Finished, given: SampleSet | None) -> Subject:
    if values.model_of is not None:
        name = values.model_of
        params = found.model("--model_of", name)
        scored = (given, "samples") if given else (found.own_samples(name), _OWN)
        return Subject(name, params, None, scored)
    if values.new_team:
        before, name, params, learned = _new_team(values, found)
    else:
        params, name = found.start(values["from"].value or "server")
        before, learned = (name, params), None
    if values.personalise is not None:
        learned = sample_files.read(
            "--personalise", values.personalise, found.form, labelled=True
        )
        before, steps = (name, params), values.personal_steps
        name, params = "new device", found.personalised(params, learned, steps)
    if given is not None:
        return Subject(name, params, before, (given, "samples"))
    assert learned is not None  # `_check` wants one of the two flags
    return Subject(name, params, before, (learned, _LEARNED))


def _new_team(values, found):
    devices = [
        sample_files.read("--new_team", name, found.form, labelled=True)
        for name in values.new_team
    ]
    before = "server", found.start("server")[0]
    x = np.concatenate([device.x for device in devices])
    y = np.concatenate([device.y for device in devices if device.y is not None])
    name, params = f"new team of {len(devices)}", found.new_team(devices).team
    return before, name, params, SampleSet(x, y)


def _score(found, name, params, samples, what):
    """Predicts, prints the accuracy if it can be known, returns the logits."""
    logits = deploy.predict(found.apply, params, samples.x)
    count = len(samples.x)
    if samples.y is None:
        print(f"{name}: {count} {what}")
    else:
        right = int((logits.argmax(axis=1) == samples.y).sum())
        print(f"{name}: accuracy {right / count:.4f}, {right} of {count} {what}")
    return logits


def _write(values, found, params, logits, samples):
    if values.predictions is not None:
        probability = np.asarray(jax.nn.softmax(logits, axis=1))
        sample_files.write_predictions(values.predictions, probability, samples.y)
    if values.save_model is not None:
        arrays = {name: np.asarray(x) for name, x in deploy.named(params).items()}
        sample_files.write_arrays("--save_model", values.save_model, arrays)
    if values.export is not None:
        sample = jax.ShapeDtypeStruct(found.form.shape, found.form.dtype)
        content = deploy.serialise(found.apply, params, sample)
        sample_files.write("--export", values.export, content)


def main(argv: Sequence[str]) -> None:
    """Runs what the flags ask for."""
    program.no_arguments(argv)
    machine.remember_compilations(flags.FLAGS.data_dir)
    run(flags.FLAGS)


for _name in ("workdir", "data_dir", "manual_dir"):
    flags.declare_key_flag(_name)


def console() -> None:
    """The command permfl-predict."""
    program.run(main, "experiments.predict")


if __name__ == "__main__":
    console()
