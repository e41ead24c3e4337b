"""Counts against XLA's own and by hand; the floor's arithmetic."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments import roofline, workloads

ROOT = pathlib.Path(__file__).parents[2]

WIDE = workloads.W3._replace(sample_shape=(300,), hidden=(200,))


@pytest.mark.parametrize(
    ("workload", "most"),
    # XLA counts the elementwise work too: of MCLR, that of the pixels' normalisation.
    [(workloads.W1, 0.09), (WIDE, 0.01), (workloads.W2, 0.05), (workloads.W5, 0.03)],
    ids=lambda value: getattr(value, "name", None),
)
def test_flops_are_those_that_xla_counts(workload, most):
    task = workloads.task_of(workload)
    rows = 4
    batch = {
        "x": jnp.zeros((rows, *workload.sample_shape), workload.dtype),
        "y": jnp.zeros(rows, jnp.int32),
    }
    key = [jax.random.key(0)] if workload.model == "cnn" else []

    def loss(params):
        return task.loss(params, batch, *key).sum()

    params = workloads.start_params(workload)
    counted = jax.jit(jax.grad(loss)).lower(params).cost_analysis()["flops"]
    module = workloads.module(workload)
    ours = rows * roofline.flops_per_sample(module, workload.sample_shape)
    assert ours <= counted <= (1 + most) * ours


def test_a_dense_network_is_counted_by_hand():
    """784·10 products forward and by the weight; nobody needs the gradient by x."""
    module = workloads.module(workloads.W1)
    shape = workloads.W1.sample_shape
    assert roofline.products_per_sample(module, shape) == [7840]
    assert roofline.flops_per_sample(module, shape) == 2 * 2 * 7840
    module = workloads.module(workloads.W3)
    assert roofline.products_per_sample(module, (60,)) == [60 * 20, 20 * 10]
    assert roofline.flops_per_sample(module, (60,)) == 2 * (2 * 1200 + 3 * 200)


def test_a_convolution_uses_its_weight_at_every_place():
    """28 -> 27 by the window of 2, 26 by the pool; 25 and 24."""
    module = workloads.module(workloads.W2)
    assert roofline.products_per_sample(module, workloads.W2.sample_shape) == [
        4 * 16 * 27**2,
        4 * 16 * 32 * 25**2,
        24 * 24 * 32 * 128,
        128 * 10,
    ]


def test_a_step_reads_its_batch_and_w_and_reads_and_writes_theta():
    case = workloads.W1._replace(team_sizes=(1, 1), counts=(64, 32))
    cost = roofline.step_cost(case)
    assert cost.bytes == 48 * (784 + 4) + 3 * 4 * 7850
    assert cost.flops == 48 * 4 * 7840
    stored_as_floats = roofline.step_cost(case._replace(dtype="float32"))
    assert stored_as_floats.bytes == 48 * (4 * 784 + 4) + 3 * 4 * 7850


def test_batches_at_the_end_of_a_pass_are_smaller():
    assert roofline.mean_batch((128,), 64) == 64
    assert roofline.mean_batch((100,), 64) == 50  # 64 and 36
    assert roofline.mean_batch((3, 100), 64) == (3 + 50) / 2


def test_the_floor_is_the_slower_of_the_two():
    cost = roofline.Cost(flops=6e9, bytes=4e9)
    assert cost.floor(roofline.Ceilings(2e9, 1e9)) == 4
    assert cost.floor(roofline.Ceilings(1e9, 1e9)) == 6


def test_ceilings_are_rates(monkeypatch):
    """A second per call, on one chip: 2·n³ FLOPs, and 2 bytes per byte passed over."""
    monkeypatch.setattr(roofline, "_fastest", lambda call: call() is not None)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    found = roofline.ceilings((8, 32, 16), 2**12)
    assert found == roofline.Ceilings(2 * 32**3, 2 * 2**12)


def test_ceilings_are_measured():
    found = roofline.ceilings((64,), 2**16)
    assert found.flops_per_second > 1e6
    assert found.bytes_per_second > 1e6


def test_several_chips_count_together():
    """Two products at once and, of one array, a half on each; again a second a call."""
    program = (
        "import jax\n"
        "jax.config.update('jax_num_cpu_devices', 2)\n"
        "from experiments import roofline\n"
        "roofline._fastest = lambda call: call() is not None\n"
        "print(*roofline.ceilings((8,), 2**12))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [float(rate) for rate in done.stdout.split()] == [2 * 2 * 8**3, 2 * 2**12]
