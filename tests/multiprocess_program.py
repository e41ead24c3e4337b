"""One of several processes that train a federation together; see multiprocess_test.py.

python multiprocess_program.py PROCESSES INDEX PORT CHIPS

Prints one line of JSON: which devices it was asked to load, scores, the global model.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np


def make(part, device, counts):
    """The samples of one device, whoever asks."""
    rng = np.random.default_rng([device, part == "test"])
    count = counts[part][device]
    return {
        "x": rng.normal(size=(count, 5)).astype(np.float32),
        "y": rng.integers(0, 3, count).astype(np.int32),
    }


def loss(params, batch):
    logits = batch["x"] @ params["weight"].T + params["bias"][None]
    picked = jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - picked


def metrics(params, batch):
    losses = loss(params, batch)
    return {"accuracy": (losses < 1).astype(losses.dtype), "loss": losses}


def train(chips, devices_per_round):
    """Three rounds and an evaluation; what this process has seen of them."""
    from permfl_jax import evaluate, placement, runner
    from permfl_jax.algorithms.permfl import HParams, permfl
    from permfl_jax.federation import from_loader
    from permfl_jax.participation import Sampler
    from permfl_jax.schedule import Schedule

    counts = {"train": [7, 9, 8, 9, 8, 9, 7, 8], "test": [2, 3, 0, 2, 1, 3, 2, 2]}
    loaded = []

    def load(part, device):
        loaded.append([part, device])
        return make(part, device, counts)

    # Teams alternate, so that a process' devices are not neighbours in this order.
    like = {"x": np.zeros((0, 5), np.float32), "y": np.zeros(0, np.int32)}
    federation = from_loader(load, ["b", "a"] * 4, counts, like)
    mesh = None if chips == 1 else placement.choose_mesh(federation)
    sampler = Sampler.of(federation, None, devices_per_round)
    federation = placement.place(federation, mesh)
    algorithm = permfl(
        loss, Schedule(team_steps=2, device_steps=3, batch_size=4), sampler
    )
    key, hparams = jax.random.key(0), HParams(device_lr=0.1).traced()
    params = {"weight": jnp.full((3, 5), 0.1), "bias": jnp.zeros(3)}
    state = runner.start(algorithm, params, federation)
    losses = []
    for now, rounds in runner.run(algorithm, key, hparams, state, federation, 3):
        state = now
        losses += rounds["device/loss"].tolist()
    models = evaluate.models_of(algorithm, key, hparams, state, federation)
    return {
        "mesh": None if mesh is None else list(mesh.devices.shape),
        "own": [i for i, d in enumerate(jax.devices()) if d in jax.local_devices()],
        "loaded": sorted(loaded),
        "round": int(state.round),
        "losses": losses,
        "row": evaluate.Evaluator(metrics, federation).rows(models),
        "server": {k: v.tolist() for k, v in placement.to_host(state.server).items()},
        "device": placement.to_host(state.device)["bias"].tolist(),
    }


def main():
    processes, index, port, chips = map(int, sys.argv[1:])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", chips)
    if processes > 1:
        try:
            jax.distributed.initialize(
                f"127.0.0.1:{port}", processes, index, initialization_timeout=60
            )
        except RuntimeError as error:
            print(json.dumps({"cannot start": str(error)}), flush=True)
            return
    runs = [train(processes * chips, number) for number in (None, 1)]
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
