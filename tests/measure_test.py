"""What is measured before training, against what it should find."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from federations import (
    classes_federation,
    mclr_loss,
    mclr_params,
    quadratic_federation,
    quadratic_loss,
)

from permfl_jax.federation import from_arrays
from permfl_jax.measure import measure

KEY = jax.random.key(0)


def with_spectrum(seed, sizes, values):
    """Every device has this spectrum, in a basis of its own."""
    f = oracles.random_quadratics(seed, sizes, len(values), low=1, high=1)
    rng = np.random.default_rng(seed)
    for d in range(len(f.team)):
        basis, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
        f.hessian[d] = basis * np.array(values) @ basis.T
    return f


def smoothness(f):
    start = jnp.ones(f.linear.shape[1])
    return measure(quadratic_loss, start, quadratic_federation(f), KEY).smoothness


@pytest.mark.parametrize("high", [0.3, 50.0])
def test_smoothness_of_quadratics_is_their_top_eigenvalue(high):
    f = with_spectrum(1, (2, 3), [0.0, 0.1 * high, 0.5 * high, 0.8 * high, high])
    assert smoothness(f) == pytest.approx(high, rel=0.01)


def test_a_crowded_spectrum_is_measured_from_below():
    f = with_spectrum(2, (2, 3), np.linspace(0.5, 1, 30))
    assert 0.9 < smoothness(f) <= 1


def test_the_largest_curvature_on_any_device_counts():
    f = with_spectrum(3, (2, 3), [0.2, 0.5, 1.0])
    f.hessian[3] *= 7
    assert smoothness(f) == pytest.approx(7, rel=0.01)


def test_negative_curvature_counts_by_its_size():
    f = with_spectrum(4, (1,), [-5.0, 0.5, 1.0])
    assert smoothness(f) == pytest.approx(5, rel=0.01)


@pytest.mark.parametrize("count", [7, 150])
def test_smoothness_of_mclr_is_the_top_of_its_hessian(count):
    federation, devices = classes_federation(4, [count], [0])
    params = mclr_params(5)
    found = measure(mclr_loss, params, federation, KEY)
    x = np.hstack([devices[0]["x"], np.ones((count, 1))])
    weight = np.hstack([params["weight"], np.asarray(params["bias"])[:, None]])
    logits = x @ weight.T
    prob = np.exp(logits - logits.max(axis=1, keepdims=True))
    prob /= prob.sum(axis=1, keepdims=True)
    hessian = 0
    for p, row in zip(prob, x, strict=True):
        hessian += np.kron(np.diag(p) - np.outer(p, p), np.outer(row, row)) / count
    assert found.smoothness == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=0.01)


def mean_loss(theta, batch):
    """½ |θ - x|²: a device's optimum is the mean of its samples, and h = 1."""
    return 0.5 * ((theta[None] - batch["x"]) ** 2).sum(axis=1)


def mean_estimation(seed, counts, spread, noise, dim=500):
    """Devices whose true means vary by `spread`, their samples by `noise` (σ)."""
    rng = np.random.default_rng(seed)
    devices = [
        {"x": rng.normal(size=dim) * spread + rng.normal(size=(n, dim)) * noise}
        for n in counts
    ]
    return from_arrays(devices, [0] * len(counts))


@pytest.mark.parametrize(
    ("count", "spread", "noise"), [(40, 1.0, 2.0), (41, 1.0, 3.0), (200, 0.3, 1.5)]
)
def test_best_pull_is_that_of_the_random_effects_model(count, spread, noise):
    """SPEC A.6: λ* = hτ²/σ_d² with τ² = noise²/n.

    8 devices and 500 dimensions leave a standard error of √(2/(7·500)) = 2.4 % in the
    variance between devices, and less in the noise; 10 % is four of them.
    """
    federation = mean_estimation(6, [count] * 8, spread, noise)
    found = measure(mean_loss, jnp.zeros(500), federation, KEY)
    assert found.smoothness == pytest.approx(1, rel=1e-6)
    expected = noise**2 / count / spread**2
    assert found.best_device_prox == pytest.approx(expected, rel=0.1)


def test_best_pull_counts_all_samples_not_only_those_measured():
    count, spread, noise = 1200, 0.2, 2.0
    federation = mean_estimation(7, [count] * 8, spread, noise)
    found = measure(mean_loss, jnp.zeros(500), federation, KEY)
    expected = noise**2 / count / spread**2
    # Of the variance between measured means 28 % is noise, so the error is larger.
    assert found.best_device_prox == pytest.approx(expected, rel=0.15)


def test_devices_that_do_not_differ_suggest_at_least_their_curvature():
    """The spread is lost in the noise: λ* = hτ²/σ_d² is then above h."""
    federation = mean_estimation(8, [30] * 8, 0.0, 1.0)
    found = measure(mean_loss, jnp.zeros(500), federation, KEY)
    assert found.best_device_prox == pytest.approx(1.0)


@pytest.mark.parametrize("apart", [0.0, 3.0, 30.0])
def test_the_spread_that_counts_is_that_within_teams(apart):
    """λ* = hτ²/σ_d² whatever lies between teams: 4 teams of 10, n = 20, h = 1."""
    rng = np.random.default_rng(12)
    centres = rng.normal(size=(40, 100)) + apart * np.repeat(
        rng.normal(size=(4, 100)), 10, axis=0
    )
    devices = [{"x": c + rng.normal(size=(20, 100))} for c in centres]
    federation = from_arrays(devices, np.repeat(range(4), 10).tolist())
    found = measure(mean_loss, jnp.zeros(100), federation, KEY)
    assert found.best_device_prox == pytest.approx(1 / 20, rel=0.2)


def test_devices_of_one_sample_have_no_noise_to_measure():
    federation = mean_estimation(9, [1] * 8, 1.0, 1.0)
    assert measure(mean_loss, jnp.zeros(500), federation, KEY).best_device_prox == 0


def test_a_single_device_suggests_no_pull():
    federation = mean_estimation(10, [30], 1.0, 1.0)
    found = measure(mean_loss, jnp.zeros(500), federation, KEY)
    assert found.best_device_prox == 0
    assert found.smallest_count == 30


def test_smallest_count_is_over_all_devices_also_those_not_measured():
    counts = [9, 8, 7, 3, 8, 9, 5, 6, 7, 8, 9, 9, 2, 9, 7, 8, 9]
    federation = mean_estimation(11, counts, 1.0, 1.0, dim=2)
    measured = set(np.linspace(0, len(counts) - 1, 8).astype(int).tolist())
    assert counts.index(2) not in measured
    assert measure(mean_loss, jnp.zeros(2), federation, KEY).smallest_count == 2


def test_each_sample_of_a_device_counts_once_and_those_of_others_never():
    # Device 0 has 3 samples of mean curvature 4; flat ones follow it in the pool.
    curvatures = [np.array([10.0, 1.0, 1.0]), np.full(400, 0.5)]
    devices = [
        {"hessian": c[:, None, None], "linear": np.zeros((len(c), 1))}
        for c in curvatures
    ]
    federation = from_arrays(devices, [0, 1])
    found = measure(quadratic_loss, jnp.ones(1), federation, KEY)
    assert found.smoothness == pytest.approx(4)


def test_random_losses_can_be_measured():
    def noisy(theta, batch, key):
        return mean_loss(theta, batch) + 0 * jax.random.normal(key, ())

    federation = mean_estimation(12, [20] * 8, 1.0, 1.0)
    one = measure(mean_loss, jnp.zeros(500), federation, KEY)
    two = measure(noisy, jnp.zeros(500), federation, KEY)
    assert one == pytest.approx(two, rel=1e-12)
