"""The folder of a run, damaged or forged, and the run gone on with."""

import contextlib
import json
import pathlib
import random
import shutil
from typing import Any

from absl import flags
from absl.testing import flagsaver

from fuzzing import mutating

GIGABYTES = 3.0
_FILES = ("config.json", "metrics.jsonl", "summary.json", "partition.npz")
_GIVEN = (
    *("--num_teams=2", "--devices_per_team=2", "--num_rounds=2", "--team_steps=1"),
    *("--device_steps=1", "--batch_size=8", "--nolocal_floor", "--checkpoint_every=1"),
)
_WHOLE_RUN = 0.02  # of the cases; a run takes seconds


def prepare(folder: pathlib.Path) -> dict[str, Any]:
    """A finished run of two rounds, and what its flags build."""
    from experiments import config, experiment, job, train

    with flagsaver.flagsaver():
        flags.FLAGS(["train", *_GIVEN, f"--workdir={folder / 'run'}"])
        settings = config.from_flags(flags.FLAGS)
        train.run(settings)
        built = experiment.spread(experiment.build(settings))
    return {"run": folder / "run", "built": built, "start": job.start(built)}


def draw(rng: random.Random, world: dict[str, Any]) -> list[Any]:
    """How the folder is used, then damage to its files."""
    texts = {
        name: json.loads((world["run"] / name).read_text())
        for name in _FILES
        if name.endswith(".json")
    }
    use = "again" if rng.random() < 0.5 else rng.choice(("more", "resume", "resume"))
    if rng.random() < _WHOLE_RUN:
        use = "run"
    count = rng.choice((1, 1, 1, 2, 4))
    damage = [mutating.damage(rng, list(_FILES), texts) for _ in range(count)]
    return [["", "use", use], *damage]


def perform(
    steps: list[Any], world: dict[str, Any], folder: pathlib.Path
) -> str | None:
    """Looks into the folder as training, its report and a reader of partitions do."""
    from experiments import config
    from permfl_jax import results

    run = folder / "run"
    shutil.copytree(world["run"], run)
    use = ""
    for step in steps:
        if step[1] == "use":
            use = step[2]
        else:
            mutating.apply(run, step)
    with contextlib.suppress(results.InputError):
        results.read_partition(run)
    _report(run)
    if use == "resume":
        with contextlib.suppress(OSError):
            (run / "summary.json").unlink()
    more = ["--num_rounds=3"] if use == "more" else []
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *_GIVEN, f"--workdir={run}", *more])
        settings = config.from_flags(flags.FLAGS)
        if use == "run":
            return _train(settings, run)
        return _look(settings, world, use)


def _look(settings, world, use):
    """What `train.run` does with a folder, but for the training."""
    from experiments import outcome, session, train
    from permfl_jax import results

    folder = results.Workdir(settings.workdir, vars(settings), grows="num_rounds")
    if folder.finished:
        folder.by_other_code()
        if use == "again":
            outcome.of_finished(outcome.table, folder.finished, folder.path)
        return None
    with folder.locked():
        start = session.Session(settings, folder)
        world["built"].check_partition(folder.path, folder.begun)
        begin = start.begin(world["start"])
        if begin is None:
            train._anew(folder, world["built"])
        else:
            json.dumps(begin.rows, allow_nan=False)
        start.checkpoints.abandon()
    config = json.loads((folder.path / "config.json").read_text())
    return None if isinstance(config["flags"], dict) else "left a damaged config.json"


def _train(settings, run):
    from experiments import train

    train.run(settings)
    json.loads((run / "summary.json").read_text())


def _report(run):
    """The page, where there is one."""
    from experiments import report_folder

    with contextlib.suppress(report_folder.InputError):
        report_folder.read(str(run))
