"""What the machine can do at most, and the least that one device step must do.

A step is counted as its matrix products and its unavoidable traffic:

  FLOPs  a multiplication and an addition for each weight and place where it is used:
         in the forward pass, in the gradient by the weight, and in the gradient by the
         layer's input (which the first layer does not need). Nothing else counts.
  bytes  the samples of the batch and their labels, read as they are stored; θ, read and
         written; and w, which θ is pulled to, read. Activations do not count: they may
         stay in a cache.

The floor is the time that the slower of the two takes at the ceilings.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from . import workloads


class Ceilings(NamedTuple):
    """The most that was seen of this machine.

    Attributes:
      flops_per_second: of the fastest matrix product.
      bytes_per_second: read and written, of the fastest pass over memory.
    """

    flops_per_second: float
    bytes_per_second: float


class Cost(NamedTuple):
    """What one device step must do, averaged over the devices.

    Attributes:
      flops: multiplications and additions.
      bytes: read and written.
    """

    flops: float
    bytes: float

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds below which no step can go."""
        return max(
            self.flops / ceilings.flops_per_second,
            self.bytes / ceilings.bytes_per_second,
        )


def step_cost(workload: workloads.Workload) -> Cost:
    """The cost of a device step, with the batches that the devices really have."""
    rows = mean_batch(workload.counts, workload.batch_size)
    module = workloads.module(workload)
    sample = jax.ShapeDtypeStruct((1, *workload.sample_shape), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), sample)["params"]
    model_bytes = sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)
    )
    stored = np.dtype(workload.dtype).itemsize * int(np.prod(workload.sample_shape))
    label = np.dtype(np.int32).itemsize
    return Cost(
        flops=rows * flops_per_sample(module, workload.sample_shape),
        bytes=rows * (stored + label) + 3 * model_bytes,
    )


def mean_batch(counts: tuple[int, ...], batch_size: int) -> float:
    """Samples in a batch: mean over the devices, and over a pass of each."""
    return float(np.mean([n / -(-n // batch_size) for n in counts]))


def flops_per_sample(module: nn.Module, sample_shape: tuple[int, ...]) -> int:
    """FLOPs of the loss and its gradient, for one sample; see the top of the file."""
    first, *others = products_per_sample(module, sample_shape)
    return 2 * (2 * first + 3 * sum(others))


def products_per_sample(module: nn.Module, sample_shape: tuple[int, ...]) -> list[int]:
    """Multiplications of each layer's forward pass, in the order of the layers."""
    products = []

    def record(method, args, kwargs, context):
        out = method(*args, **kwargs)
        layer = context.module
        if context.method_name == "__call__" and layer.has_variable("params", "weight"):
            weight, bias = (
                layer.get_variable("params", name) for name in ("weight", "bias")
            )
            places = out.size // bias.size  # 1 but for convolutions
            products.append(weight.size * places)
        return out

    sample = jax.ShapeDtypeStruct((1, *sample_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(module.init, jax.random.key(0), sample)
    return products


def ceilings(sides: tuple[int, ...] = (), num_bytes: int = 0) -> Ceilings:
    """Measures this process's machine: on one XLA device, and on all at once.

    Args:
      sides: of the square float32 matrices; by default 1024 and 2048 on a CPU, 4096 and
        8192 elsewhere, whose products take a few to a hundred milliseconds.
      num_bytes: of the array that is passed over, on all XLA devices together; by
        default 256 MB on a CPU and 1 GB elsewhere, far above the caches.
    """
    on_cpu = jax.default_backend() == "cpu"
    sides = sides or ((1024, 2048) if on_cpu else (4096, 8192))
    num_bytes = num_bytes or (2**28 if on_cpu else 2**30)
    meshes = [jax.make_mesh((n,), ("chip",)) for n in {1, len(jax.devices())}]
    return Ceilings(
        max(_matmul_rate(mesh, side) for mesh in meshes for side in sides),
        max(_pass_rate(mesh, num_bytes) for mesh in meshes),
    )


def _matmul_rate(mesh: jax.sharding.Mesh, side: int) -> float:
    """FLOP/s of one product on each XLA device of the mesh at the same time."""
    spec = jax.sharding.PartitionSpec("chip")
    x = np.random.default_rng(0).random((mesh.size, side, side), np.float32)
    x = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
    # One matrix per device and no batch axis, which XLA's CPU would loop over.
    multiply = jax.jit(
        jax.shard_map(
            lambda x: (x[0] @ x[0])[None], mesh=mesh, in_specs=spec, out_specs=spec
        )
    )
    return mesh.size * 2 * side**3 / _fastest(lambda: multiply(x))


def _pass_rate(mesh: jax.sharding.Mesh, num_bytes: int) -> float:
    """Bytes read and written per second when an array changes sign in place.

    In place, because a new array on a CPU costs a page fault for every page of it.
    """
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("chip"))
    x = jax.device_put(np.ones(num_bytes // 4, np.float32), sharding)
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def again() -> jax.Array:
        nonlocal x
        x = negate(x)
        return x

    return 2 * x.nbytes / _fastest(again)


def _fastest(call: Callable[[], jax.Array], repeats: int = 7) -> float:
    """Seconds of the fastest of some calls, after one that does not count."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
