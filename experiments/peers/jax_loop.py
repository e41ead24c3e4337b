"""PerMFL in the style of FedJAX: a Python loop over devices and their batches.

As with FedJAX's `for_each_client`, backend `jit`: NumPy shuffles and gathers each batch
on the host, and one jitted call runs one step. Shapes are fixed as FedJAX's are, so
that one program serves all devices: every batch holds exactly B samples, and one that
begins near the end of a pass takes the rest from the next pass.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import gradient, models, task
from permfl_jax.types import Batch, LossFn, Params

from . import Device, Peer, Setting, members

_TEST_BLOCK = 64  # test sets are padded to a multiple, so that few programs serve all

# `(w, samples, L positions [B] each, number) -> θ`, L steps of one device from and
# pulled to w; `number` seeds the dropout of this exchange, if any.
Descend = Callable[[Params, Device, Iterable[np.ndarray], np.int32], Params]


class Programs(NamedTuple):
    """What is jitted.

    Attributes:
      descend: L steps of one device.
      add: the sum of two models.
      team_step: `(w, x, sum of θ, N) -> w`.
      server_step: `(x, sum of w, M) -> x`.
      hits: `(model, test batch, count) -> []`, samples that the model gets right.
    """

    descend: Descend
    add: Callable[..., Params]
    team_step: Callable[..., Params]
    server_step: Callable[..., Params]
    hits: Callable[..., jax.Array]


def build(
    setting: Setting,
    params: Any,
    train: Sequence[Device],
    test: Sequence[Device],
    teams: Sequence[int],
) -> Peer:
    """The peer; see `experiments.peers.PEERS`."""
    return Loop(_step_by_step, setting, params, train, test, teams).peer()


class Loop:
    """The models of the three tiers, and the rounds that move them."""

    def __init__(
        self,
        descend: Callable[[Setting, LossFn], Descend],
        setting: Setting,
        params: Any,
        train: Sequence[Device],
        test: Sequence[Device],
        teams: Sequence[int],
    ):
        self._setting = setting
        self._programs = _programs(descend, setting, train[0]["x"][0])
        self._members = members(teams)
        rng = np.random.default_rng(0)
        self._train = train
        self._orders = [
            positions(len(d["y"]), setting.batch_size or len(d["y"]), rng)
            for d in train
        ]
        self._tests = [_padded(samples) for samples in test]
        self._server = jax.tree.map(jnp.asarray, params)
        self._teams = [self._server for _ in self._members]
        self._devices = [self._server for _ in train]
        self._calls = 0

    def peer(self) -> Peer:
        """What the benchmark times."""
        return Peer(self.one_round, self.evaluate, self.leaves)

    def one_round(self) -> None:
        """One global round."""
        run = self._programs
        for team, devices in enumerate(self._members):
            w = self._server
            for _ in range(self._setting.team_steps):
                theta_sum = None
                for device in devices:
                    theta = self._exchange(w, device)
                    theta_sum = (
                        theta if theta_sum is None else run.add(theta_sum, theta)
                    )
                    self._devices[device] = theta
                w = run.team_step(w, self._server, theta_sum, len(devices))
            self._teams[team] = w
        w_sum = self._teams[0]
        for w in self._teams[1:]:
            w_sum = run.add(w_sum, w)
        self._server = run.server_step(self._server, w_sum, len(self._teams))
        jax.block_until_ready((self._devices, self._teams, self._server))

    def evaluate(self) -> dict[str, float]:
        """Pooled test accuracy of the devices' own, the team's and the global model."""
        hits: dict[str, list[jax.Array]] = {"PM": [], "TM": [], "GM": []}
        for team, devices in enumerate(self._members):
            for device in devices:
                for label, model in (
                    ("PM", self._devices[device]),
                    ("TM", self._teams[team]),
                    ("GM", self._server),
                ):
                    hits[label].append(self._programs.hits(model, *self._tests[device]))
        total = sum(count for _, count in self._tests)
        return {label: float(sum(map(int, own))) / total for label, own in hits.items()}

    def leaves(self) -> list[np.ndarray]:
        """`jax.tree.leaves` of the global model."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self._server)]

    def _exchange(self, w: Params, device: int) -> Params:
        """A device's model after its next L batches."""
        self._calls += 1
        places = itertools.islice(self._orders[device], self._setting.device_steps)
        samples, number = self._train[device], np.int32(self._calls)
        return self._programs.descend(w, samples, places, number)


def positions(
    count: int, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Endless batches of exactly B positions, in a new order for each pass.

    Args:
      count: samples of the device.
      batch_size: B; above `count`, a batch holds some samples more than once.
      rng: draws the orders.
    """
    left = rng.permutation(count)
    while True:
        while len(left) < batch_size:
            left = np.concatenate([left, rng.permutation(count)])
        yield left[:batch_size]
        left = left[batch_size:]


def _programs(
    descend: Callable[[Setting, LossFn], Descend],
    setting: Setting,
    sample: np.ndarray,
) -> Programs:
    """Everything that is jitted, for one task and its step sizes."""
    module = models.build(
        setting.model,
        models.ModelSpec(
            dataset=setting.dataset,
            sample_shape=sample.shape,
            num_classes=setting.num_classes,
            hidden=setting.hidden,
        ),
    )
    classify = task.classification(
        module,
        sample,
        scale=setting.scale,
        offset=setting.offset,
        random=models.is_random(module),
    )
    to_devices = setting.team_lr * setting.device_prox
    to_server = setting.team_lr * setting.team_prox
    to_teams = setting.server_lr * setting.team_prox

    def team_step(team, server, theta_sum, size):
        def leaf(w, x, total):
            rest = (1 - to_devices - to_server) * w + to_server * x
            return rest + to_devices * (total / size)

        return jax.tree.map(leaf, team, server, theta_sum)

    def server_step(server, team_sum, size):
        return jax.tree.map(
            lambda x, total: (1 - to_teams) * x + to_teams * (total / size),
            server,
            team_sum,
        )

    def hits(params, batch, count):
        right = classify.metrics(params, batch)["accuracy"]
        return jnp.where(jnp.arange(right.shape[0]) < count, right, 0).sum()

    return Programs(
        descend=descend(setting, classify.loss),
        add=jax.jit(lambda one, other: jax.tree.map(jnp.add, one, other)),
        team_step=jax.jit(team_step),
        server_step=jax.jit(server_step),
        hits=jax.jit(hits),
    )


def cut(samples: Device, places: np.ndarray) -> Device:
    """The samples at some positions, by NumPy on the host."""
    return {name: leaf[places] for name, leaf in samples.items()}


def step_of(setting: Setting, loss_fn: LossFn) -> Callable[..., Any]:
    """`(w, (θ, key), batch) -> (θ, key)`: one step of one device."""
    random = gradient.takes_key(loss_fn)

    def mean_loss(params, batch, key):
        losses = loss_fn(params, batch, key) if random else loss_fn(params, batch)
        return losses.mean()

    def step(anchor, carry, batch):
        theta, key = carry
        key, noise = jax.random.split(key)
        grads = jax.grad(mean_loss)(theta, batch, noise)
        theta = jax.tree.map(
            lambda t, g, w: t - setting.device_lr * (g + setting.device_prox * (t - w)),
            theta,
            grads,
            anchor,
        )
        return theta, key

    return step


def _step_by_step(setting: Setting, loss_fn: LossFn) -> Descend:
    """Each step is a call, as FedJAX's `client_step`."""
    step, begin = jax.jit(step_of(setting, loss_fn)), jax.jit(jax.random.key)

    def descend(w, samples, places, number):
        carry = w, begin(number)
        for place in places:
            carry = step(w, carry, cut(samples, place))
        return carry[0]

    return descend


def _padded(samples: Device) -> tuple[Batch, int]:
    """Samples with zeros up to a multiple of the block, and how many are real."""
    count = len(samples["y"])
    # A device without test samples gets a block, too: no model takes an empty batch.
    fill = max(1, -(-count // _TEST_BLOCK)) * _TEST_BLOCK - count
    padded = {
        name: jnp.asarray(np.pad(leaf, [(0, fill), *[(0, 0)] * (leaf.ndim - 1)]))
        for name, leaf in samples.items()
    }
    return padded, count
