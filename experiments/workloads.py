"""What the benchmark runs: sizes, models and synthetic samples."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from permfl_jax import federation, keys, models, task
from permfl_jax.algorithms.permfl import HParams
from permfl_jax.types import Federation, Params

from . import peers


class Workload(NamedTuple):
    """One federation and schedule to time.

    Attributes:
      name: what the table calls it.
      model: registry name.
      dataset: picks the CNN, as `permfl_jax.models.cnn.PLANS`.
      sample_shape: shape of one `x`.
      num_classes: C.
      hidden: widths of the hidden layers of `dnn`.
      dtype: how `x` is stored, `uint8` or `float32`.
      team_sizes: devices of each team.
      counts: training samples of each device.
      test_counts: test samples of each device.
      team_steps: K.
      device_steps: L.
      batch_size: B.
      devices_per_round: n of each team in an exchange, or `None` for all.
    """

    name: str
    model: str
    dataset: str
    sample_shape: tuple[int, ...]
    num_classes: int
    hidden: tuple[int, ...]
    dtype: str
    team_sizes: tuple[int, ...]
    counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    team_steps: int
    device_steps: int
    batch_size: int = 64
    devices_per_round: int | None = None

    @property
    def steps_per_round(self) -> int:
        """Device steps in one global round, over all devices that act."""
        most = self.devices_per_round or max(self.team_sizes)
        acting = sum(min(size, most) for size in self.team_sizes)
        return acting * self.team_steps * self.device_steps

    @property
    def teams(self) -> list[int]:
        """The team of each device."""
        sizes = np.array(self.team_sizes)
        return np.repeat(np.arange(len(sizes)), sizes).tolist()

    @property
    def scale_and_offset(self) -> tuple[float, float]:
        """The model sees `x * scale + offset`: bytes become -1 to 1."""
        return (2 / 255, -1.0) if self.dtype == "uint8" else (1.0, 0.0)

    def with_devices(
        self, team_sizes: tuple[int, ...], train: int, test: int
    ) -> "Workload":
        """The same with other teams, and as many samples on every device."""
        number = sum(team_sizes)
        return self._replace(
            team_sizes=team_sizes,
            counts=(train,) * number,
            test_counts=(test,) * number,
        )

    def scaled_to(self, num_devices: int) -> "Workload":
        """The same with `num_devices` in teams of 40, the last one maybe smaller."""
        sizes = (40,) * (num_devices // 40)
        if num_devices % 40:
            sizes += (num_devices % 40,)
        return self.with_devices(sizes, self.counts[0], self.test_counts[0])

    def doubled(self) -> "Workload":
        """M, N, K and L times two: the same program, 16 times the device steps."""
        larger = self.with_devices(
            tuple(2 * size for size in self.team_sizes) * 2,
            self.counts[0],
            self.test_counts[0],
        )
        return larger._replace(
            name=f"{self.name}_doubled",
            team_steps=2 * self.team_steps,
            device_steps=2 * self.device_steps,
        )


_MNIST = ("mnist", (28, 28, 1), 10, (), "uint8")
_CIFAR100 = ("cifar100", (32, 32, 3), 100, (), "uint8")
_SYNTHETIC = ("synthetic", (60,), 10, (20,), "float32")
# A quarter of each device's samples is for testing, as in the paper. The rounds of the
# CNNs are short: PyTorch takes a tenth of a second for one device step of W2 on two
# cores, and a second for one of W5.
W1 = Workload("W1", "mclr", *_MNIST, (), (), (), 10, 20).with_devices(
    (10,) * 4, train=550, test=183
)
W2 = Workload("W2", "cnn", *_MNIST, (), (), (), 1, 5).with_devices(
    (10,) * 4, train=190, test=63
)
W3 = Workload("W3", "dnn", *_SYNTHETIC, (), (), (), 10, 20).with_devices(
    (10,) * 10, train=160, test=53
)
W5 = Workload("W5", "cnn", *_CIFAR100, (), (), (), 1, 2).with_devices(
    (4,) * 2, train=128, test=42
)
# W1 as it grows. 2 GB of samples at 40,000 devices; nobody is tested.
W4 = {
    number: W1._replace(
        name=f"W4/{number}", team_steps=1, device_steps=10
    ).with_devices((number // 4,) * 4, train=64, test=0)
    for number in (40, 400, 4_000, 40_000)
}
# Rounds with some of the devices only, and with devices and teams of unequal size.
MANY = W1._replace(name="400 devices", team_steps=2).with_devices(
    (100,) * 4, train=100, test=0
)
FEW_ACT = MANY._replace(name="a tenth of 400 devices", devices_per_round=10)
EVEN = W1._replace(name="equal", team_steps=5).with_devices(
    (10,) * 4, train=550, test=0
)


def lognormal_counts(num_devices: int, mean: int) -> tuple[int, ...]:
    """Sample counts with lognormal(σ=2) skew and about the given mean."""
    sizes = np.random.default_rng(0).lognormal(0, 2, num_devices)
    return tuple(np.maximum(1, mean * sizes / sizes.mean()).astype(int).tolist())


RAGGED = {
    "teams": EVEN._replace(name="teams of 2, 4, 8, 26", team_sizes=(2, 4, 8, 26)),
    "counts": EVEN._replace(
        name="lognormal(2) counts", counts=lognormal_counts(40, 550)
    ),
    "both": EVEN._replace(
        name="both unequal",
        team_sizes=(2, 4, 8, 26),
        counts=lognormal_counts(40, 550),
    ),
}


def samples(workload: Workload) -> tuple[list[peers.Device], list[peers.Device]]:
    """Random training and test samples of each device; the same in every call."""
    rng = np.random.default_rng(0)
    return (
        _devices(workload, rng, workload.counts),
        _devices(workload, rng, workload.test_counts),
    )


def _devices(
    workload: Workload, rng: np.random.Generator, counts: tuple[int, ...]
) -> list[peers.Device]:
    """Views of one large array: 40,000 small ones would take as much memory again."""
    shape = (sum(counts), *workload.sample_shape)
    if workload.dtype == "uint8":
        x = np.frombuffer(rng.bytes(math.prod(shape)), np.uint8).reshape(shape)
    else:
        x = rng.standard_normal(shape, np.float32)
    y = rng.integers(0, workload.num_classes, len(x)).astype(np.int32)
    ends = np.cumsum(counts)[:-1]
    return [
        {"x": own_x, "y": own_y}
        for own_x, own_y in zip(np.split(x, ends), np.split(y, ends), strict=True)
    ]


def federation_of(workload: Workload) -> Federation:
    """The workload's samples as our programs take them."""
    train, test = samples(workload)
    return federation.from_arrays(train, workload.teams, test=test)


def module(workload: Workload) -> nn.Module:
    """The workload's model."""
    spec = models.ModelSpec(
        dataset=workload.dataset,
        sample_shape=workload.sample_shape,
        num_classes=workload.num_classes,
        hidden=workload.hidden,
    )
    return models.build(workload.model, spec)


def task_of(workload: Workload) -> task.Task:
    """Its loss and scores."""
    network = module(workload)
    scale, offset = workload.scale_and_offset
    return task.classification(
        network,
        np.zeros(workload.sample_shape, workload.dtype),
        scale=scale,
        offset=offset,
        random=models.is_random(network),
    )


def start_params(workload: Workload) -> Params:
    """The model that every round begins from, ours and the peers'."""
    return jax.jit(task_of(workload).init)(keys.init_key(jax.random.key(0)))


def setting(workload: Workload) -> peers.Setting:
    """The workload and our default step sizes as peers take them."""
    hparams = HParams()
    scale, offset = workload.scale_and_offset
    return peers.Setting(
        model=workload.model,
        dataset=workload.dataset,
        hidden=workload.hidden,
        num_classes=workload.num_classes,
        batch_size=workload.batch_size,
        team_steps=workload.team_steps,
        device_steps=workload.device_steps,
        device_lr=hparams.device_lr,
        team_lr=hparams.team_lr,
        server_lr=hparams.server_lr,
        device_prox=hparams.device_prox,
        team_prox=hparams.team_prox,
        scale=scale,
        offset=offset,
    )
