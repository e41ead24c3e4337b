"""PerMFL as research code in PyTorch writes it.

The way of the authors' released code and of pFedMe, from which that grew: a model, an
optimiser and a `DataLoader` for each device, devices one after another, parameters
looped over in Python. Samples are normalised once, up front. The last batch of a pass
may be smaller.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from . import Device, Peer, Setting, members, torch_models


class ProximalSGD(torch.optim.Optimizer):
    """θ <- θ - α(∇f(θ) + λ(θ - w))."""

    def __init__(self, params: Any, lr: float, prox: float):
        super().__init__(params, {"lr": lr, "prox": prox})

    @torch.no_grad()
    def step(self, closure: Any = None, anchor: Sequence[torch.Tensor] = ()) -> Any:
        """One step, pulled to `anchor`; call it after `backward`."""
        del closure
        for group in self.param_groups:
            for p, w in zip(group["params"], anchor, strict=True):
                p.sub_(group["lr"] * (p.grad + group["prox"] * (p - w)))


class User:
    """One device: its model θ, its loaders, its optimiser."""

    def __init__(
        self,
        model: nn.Module,
        train: TensorDataset,
        test: TensorDataset,
        setting: Setting,
    ):
        self.model = copy.deepcopy(model)
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = ProximalSGD(
            self.model.parameters(), setting.device_lr, setting.device_prox
        )
        batch_size = setting.batch_size or len(train)
        self.train_loader = DataLoader(train, batch_size, shuffle=True)
        self.test_loader = DataLoader(test, max(1, len(test)))
        self.train_iter = iter(self.train_loader)

    def next_batch(self) -> Sequence[torch.Tensor]:
        """The next batch; a pass that has ended starts again in a new order."""
        try:
            return next(self.train_iter)
        except StopIteration:
            self.train_iter = iter(self.train_loader)
            return next(self.train_iter)

    def train(self, team_model: nn.Module, num_steps: int) -> None:
        """L steps from the team's model."""
        self.model.load_state_dict(team_model.state_dict())
        anchor = copy.deepcopy(list(team_model.parameters()))
        self.model.train()
        for _ in range(num_steps):
            x, y = self.next_batch()
            self.optimizer.zero_grad()
            self.loss(self.model(x), y).backward()
            self.optimizer.step(anchor=anchor)

    @torch.no_grad()
    def test(self, model: nn.Module) -> tuple[int, int]:
        """How many of the device's test samples `model` gets right, and how many."""
        model.eval()
        correct, total = 0, 0
        for x, y in self.test_loader:
            correct += int((model(x).argmax(dim=1) == y).sum())
            total += len(y)
        return correct, total


class Server:
    """The global model x, the team models w, and the users of each team."""

    def __init__(self, model: nn.Module, teams: list[list[User]], setting: Setting):
        self.setting = setting
        self.users = teams
        self.model = copy.deepcopy(model)
        self.team_models = [copy.deepcopy(model) for _ in teams]

    def train_round(self) -> None:
        """One global round."""
        for team_model, users in zip(self.team_models, self.users, strict=True):
            team_model.load_state_dict(self.model.state_dict())
            for _ in range(self.setting.team_steps):
                for user in users:
                    user.train(team_model, self.setting.device_steps)
                self.update_team(team_model, users)
        self.update_server()

    @torch.no_grad()
    def update_team(self, team_model: nn.Module, users: list[User]) -> None:
        """w <- (1 - ηλ - ηγ) w + ηγ x + ηλ mean(θ)."""
        to_devices = self.setting.team_lr * self.setting.device_prox
        to_server = self.setting.team_lr * self.setting.team_prox
        theta_bar = average([user.model for user in users])
        for w, x, theta in zip(
            team_model.parameters(), self.model.parameters(), theta_bar, strict=True
        ):
            w.copy_(
                (1 - to_devices - to_server) * w + to_server * x + to_devices * theta
            )

    @torch.no_grad()
    def update_server(self) -> None:
        """x <- (1 - βγ) x + βγ mean(w)."""
        to_teams = self.setting.server_lr * self.setting.team_prox
        w_bar = average(self.team_models)
        for x, w in zip(self.model.parameters(), w_bar, strict=True):
            x.copy_((1 - to_teams) * x + to_teams * w)

    def evaluate(self) -> dict[str, float]:
        """Pooled test accuracy of the devices' own, the team's and the global model."""
        scores: dict[str, list[tuple[int, int]]] = {"PM": [], "TM": [], "GM": []}
        for team_model, users in zip(self.team_models, self.users, strict=True):
            for user in users:
                scores["PM"].append(user.test(user.model))
                scores["TM"].append(user.test(team_model))
                scores["GM"].append(user.test(self.model))
        return {
            label: sum(c for c, _ in pairs) / sum(n for _, n in pairs)
            for label, pairs in scores.items()
        }


def average(models: Sequence[nn.Module]) -> list[torch.Tensor]:
    """Mean of each parameter over `models`."""
    mean = [torch.zeros_like(p) for p in models[0].parameters()]
    for model in models:
        for total, p in zip(mean, model.parameters(), strict=True):
            total += p / len(models)
    return mean


def build(
    setting: Setting,
    params: Any,
    train: Sequence[Device],
    test: Sequence[Device],
    teams: Sequence[int],
) -> Peer:
    """The peer; see `experiments.peers.PEERS`."""
    torch.manual_seed(0)
    model = torch_models.network(setting, train[0]["x"].shape[1:], params)
    users = [
        User(
            model,
            TensorDataset(*torch_models.tensors(setting, train_samples)),
            TensorDataset(*torch_models.tensors(setting, test_samples)),
            setting,
        )
        for train_samples, test_samples in zip(train, test, strict=True)
    ]
    server = Server(
        model, [[users[d] for d in team] for team in members(teams)], setting
    )

    def leaves() -> list[np.ndarray]:
        return torch_models.leaves(server.model)

    return Peer(server.train_round, server.evaluate, leaves)
