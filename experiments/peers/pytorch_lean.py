"""PerMFL as a careful PyTorch user writes it, for speed.

No `DataLoader`, no optimiser object, one module for all devices; a model is a list of
tensors and is updated in place, all tensors in one call. Samples are normalised once
and batches are picked by `index_select`. The last batch of a pass may be smaller.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from . import Device, Peer, Setting, members, torch_models

Model = list[torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]


class Models(NamedTuple):
    """The three tiers.

    Attributes:
      device: θ of each device, after the last exchange of the round.
      team: w of each team.
      server: x.
    """

    device: list[Model]
    team: list[Model]
    server: Model


def build(
    setting: Setting,
    params: Any,
    train: Sequence[Device],
    test: Sequence[Device],
    teams: Sequence[int],
) -> Peer:
    """The peer; see `experiments.peers.PEERS`."""
    torch.manual_seed(0)
    module = torch_models.network(setting, train[0]["x"].shape[1:], params)
    start = list(module.parameters())
    models = Models(_copies(start, len(train)), _copies(start, len(set(teams))), [])
    models.server.extend(_copies(start, 1)[0])
    streams = [
        stream(*torch_models.tensors(setting, samples), setting.batch_size)
        for samples in train
    ]
    tests = [torch_models.tensors(setting, samples) for samples in test]

    def server() -> list[np.ndarray]:
        _put(module, models.server)
        return torch_models.leaves(module)

    def one_round() -> None:
        _one_round(setting, module, models, streams, members(teams))

    def evaluate() -> dict[str, float]:
        return _evaluate(module, models, tests, teams)

    return Peer(one_round, evaluate, server)


def stream(x: torch.Tensor, y: torch.Tensor, batch_size: int | None) -> Iterator[Batch]:
    """Endless batches of one device, in a new order for each pass."""
    if batch_size is None or batch_size >= len(y):
        while True:
            yield x, y
    while True:
        for index in torch.randperm(len(y)).split(batch_size):
            yield x.index_select(0, index), y.index_select(0, index)


def _one_round(
    setting: Setting,
    module: nn.Module,
    models: Models,
    streams: list[Iterator[Batch]],
    team_members: list[list[int]],
) -> None:
    to_devices = setting.team_lr * setting.device_prox
    to_server = setting.team_lr * setting.team_prox
    to_teams = setting.server_lr * setting.team_prox
    descend = _descend(setting, module)
    theta_sum = [torch.empty_like(x) for x in models.server]
    for w, devices in zip(models.team, team_members, strict=True):
        torch._foreach_copy_(w, models.server)
        for k in range(setting.team_steps):
            torch._foreach_zero_(theta_sum)
            for device in devices:
                theta = descend(w, streams[device])
                torch._foreach_add_(theta_sum, theta)
                if k == setting.team_steps - 1:
                    torch._foreach_copy_(models.device[device], theta)
            torch._foreach_mul_(w, 1 - to_devices - to_server)
            torch._foreach_add_(w, models.server, alpha=to_server)
            torch._foreach_add_(w, theta_sum, alpha=to_devices / len(devices))
    torch._foreach_mul_(models.server, 1 - to_teams)
    for w in models.team:
        torch._foreach_add_(models.server, w, alpha=to_teams / len(models.team))


def _descend(
    setting: Setting, module: nn.Module
) -> Callable[[Model, Iterator[Batch]], Model]:
    """L steps from, and pulled to, w; θ stays in the module until the next call."""
    parameters = list(module.parameters())
    theta = [p.detach() for p in parameters]  # the same memory
    pull = setting.device_lr * setting.device_prox

    def descend(w: Model, batches: Iterator[Batch]) -> Model:
        torch._foreach_copy_(theta, w)
        for _ in range(setting.device_steps):
            x, y = next(batches)
            grads = torch.autograd.grad(cross_entropy(module(x), y), parameters)
            torch._foreach_lerp_(theta, w, pull)
            torch._foreach_add_(theta, grads, alpha=-setting.device_lr)
        return theta

    return descend


@torch.no_grad()
def _evaluate(
    module: nn.Module, models: Models, tests: list[Batch], teams: Sequence[int]
) -> dict[str, float]:
    number = {team: i for i, team in enumerate(sorted(set(teams)))}
    owners = {
        "PM": models.device,
        "TM": [models.team[number[team]] for team in teams],
        "GM": [models.server] * len(teams),
    }
    total = sum(len(y) for _, y in tests)
    accuracy = {}
    module.eval()
    for label, own in owners.items():
        correct = 0
        for model, (x, y) in zip(own, tests, strict=True):
            _put(module, model)
            correct += int((module(x).argmax(dim=1) == y).sum())
        accuracy[label] = correct / total
    module.train()
    return accuracy


def _put(module: nn.Module, model: Model) -> None:
    torch._foreach_copy_([p.detach() for p in module.parameters()], model)


def _copies(model: Sequence[torch.Tensor], number: int) -> list[Model]:
    return [[p.detach().clone() for p in model] for _ in range(number)]
