"""pFedBayes against a plain loop with Adam written out, integrals, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from federations import classes_federation, mclr_loss, mclr_params

from permfl_jax import keys, runner
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.algorithms.pfedbayes import Gaussian, HParams, divergence, pfedbayes
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

COUNTS, TEAMS, BATCH, LR = [5, 2, 4, 7, 6], [0, 0, 1, 1, 1], 4, 0.02
NAMES = ("bias", "weight")  # in the order of the leaves
FEDERATION, DEVICES = classes_federation(0, COUNTS, TEAMS)


def states(rounds, devices=None, hparams=None, seed=5, **options):
    """The state before, and after each round; on the host."""
    options = {"team_steps": 4, "device_steps": 4, "batch_size": BATCH} | options
    schedule = Schedule(batching="cyclic", **options)
    algorithm = pfedbayes(mclr_loss, schedule, Sampler.of(FEDERATION, None, devices))
    start = runner.start(algorithm, mclr_params(1), FEDERATION)
    yield jax.tree.map(np.array, start)
    key = jax.random.key(seed)
    numbers = (hparams or HParams(device_lr=LR)).traced()
    for state, _ in runner.run(algorithm, key, numbers, start, FEDERATION, rounds):
        yield jax.tree.map(np.array, state)


def softplus(rho):
    return np.log1p(np.exp(rho))


def flat(params):
    return np.concatenate([np.ravel(params[name]) for name in NAMES])


def batch(n, step):
    passes = -(-COUNTS[n] // BATCH)
    rows = slice(step % passes * BATCH, (step % passes + 1) * BATCH)
    return DEVICES[n]["x"][rows], DEVICES[n]["y"][rows]


def mean_gradient(theta, samples):
    bias, weight = theta[:3], theta[3:].reshape(3, 5)
    weight, bias = oracles.mclr_gradient(weight, bias, *samples)
    return np.concatenate([bias, weight.ravel()])


def noise_of(seed, n, step):
    """[5, P]: ε of the five Adam steps on a mini-batch."""
    device = jax.random.fold_in(keys.batch_key(jax.random.key(seed)), n)
    key = jax.random.fold_in(keys.draw_key(device), step)
    rows = []
    for one in jax.random.split(key, 5):
        bias, weight = jax.random.split(one)
        draws = jax.random.normal(bias, (3,)), jax.random.normal(weight, (3, 5))
        rows.append(np.concatenate([np.ravel(x) for x in draws]))
    return np.stack(rows)


def kl_gradient(q, w):
    """∂KL by (m_q, ρ_q), and by (m_w, ρ_w): [2, P] each, from q and w [2, P]."""
    far, sigma, other = q[0] - w[0], softplus(q[1]), softplus(w[1])
    by_q = sigma / other**2 - 1 / sigma
    by_w = 1 / other - (sigma**2 + far**2) / other**3
    slope_q, slope_w = (1 / (1 + np.exp(-x[1])) for x in (q, w))
    mean = far / other**2
    return np.stack([mean, by_q * slope_q]), np.stack([-mean, by_w * slope_w])


class Adam:
    def __init__(self):
        self.first = self.second = self.count = 0

    def step(self, x, gradient):
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.999**self.count)
        return x - LR * first / (np.sqrt(second) + 1e-8)


def loop_device(n, q, w, cursor, seed, zeta, noise, batches):
    """q_n and w_n `[2, P]` after one round."""
    own, local = Adam(), Adam()
    zeta = zeta / min(COUNTS[n], BATCH)
    for step in range(cursor, cursor + batches):
        for eps in noise * noise_of(seed, n, step):
            grad = mean_gradient(q[0] + softplus(q[1]) * eps, batch(n, step))
            slope = 1 / (1 + np.exp(-q[1]))
            grads = np.stack([grad, grad * eps * slope])
            q = own.step(q, grads + zeta * kl_gradient(q, w)[0])
        w = local.step(w, zeta * kl_gradient(q, w)[1])
    return q, w


def tiers(state):
    """q `[D, 2, P]` and w `[2, P]` of a state."""
    q = [
        [flat({k: x[k][n] for k in NAMES}) for x in (state.device, state.extra.device)]
        for n in range(len(COUNTS))
    ]
    return np.array(q), np.stack([flat(state.server), flat(state.extra.server)])


@pytest.mark.parametrize(
    ("weights", "devices", "zeta", "noise"),
    [
        ("uniform", None, 10.0, 1.0),
        ("samples", 1, 10.0, 1.0),
        ("samples", None, 0.3, 0.001),
        ("uniform", 2, 2.0, 0.0),
    ],
)
def test_equals_the_plain_loop(weights, devices, zeta, noise):
    """16 steps a round are 3 mini-batches of 5 Adam steps."""
    hparams = HParams(device_lr=LR, kl_weight=zeta, noise=noise)
    run = states(3, devices, hparams, weights=weights)
    before = next(run)
    q, w = tiers(before)
    np.testing.assert_array_equal(q, np.tile(w, (len(COUNTS), 1, 1)))
    np.testing.assert_array_equal(w[1], -3.0)
    weight = COUNTS if weights == "samples" else [1] * len(COUNTS)
    for state in run:
        acting = np.flatnonzero(state.cursor != before.cursor)
        assert len(acting) == (len(COUNTS) if devices is None else 2 * devices)
        assert (state.cursor - before.cursor)[acting].tolist() == [3] * len(acting)
        ends = []
        for n in acting:
            q[n], end = loop_device(n, q[n], w, before.cursor[n], 5, zeta, noise, 3)
            ends.append(end)
        w = np.average(ends, axis=0, weights=[weight[n] for n in acting])
        ours = tiers(state)
        np.testing.assert_allclose(ours[0], q, rtol=1e-9)
        np.testing.assert_allclose(ours[1], w, rtol=1e-9)
        before = state


def test_without_noise_and_pull_it_is_adam_on_every_device():
    hparams = HParams(device_lr=LR, kl_weight=0.0, noise=0.0)
    before, after = states(1, hparams=hparams, batch_size=None)
    adam = optax.adam(LR)
    for n, device in enumerate(DEVICES):
        theta = mclr_params(1)
        moments = adam.init(theta)
        for _ in range(15):
            grads = jax.grad(lambda p, d=device: mclr_loss(p, d).mean())(theta)
            with jax.numpy_dtype_promotion("standard"):
                updates, moments = adam.update(grads, moments)
            theta = optax.apply_updates(theta, updates)
        for name in NAMES:
            np.testing.assert_allclose(after.device[name][n], theta[name], rtol=1e-9)
    np.testing.assert_array_equal(tiers(after)[0][:, 1], -3)
    # w_n stood still; the mean of five equal numbers is one of them to rounding.
    np.testing.assert_allclose(tiers(after)[1], tiers(before)[1], rtol=1e-15)


def test_who_sits_out_keeps_bits():
    before, after = states(1, devices=1)
    absent = before.cursor == after.cursor
    assert absent.sum() == 3
    for old, new in zip(
        jax.tree.leaves((before.device, before.extra.device)),
        jax.tree.leaves((after.device, after.extra.device)),
        strict=True,
    ):
        np.testing.assert_array_equal(old[absent], new[absent])
        assert (old[~absent] != new[~absent]).any(axis=tuple(range(1, old.ndim))).all()


@pytest.mark.parametrize(
    ("team_steps", "device_steps", "batches"), [(1, 3, 1), (2, 5, 2), (3, 3, 1)]
)
def test_a_round_has_as_many_gradients_as_elsewhere(team_steps, device_steps, batches):
    before, after = states(1, team_steps=team_steps, device_steps=device_steps)
    assert set(after.cursor - before.cursor) == {batches}


def integral(q, w):
    """∫ q log(q / w) for one weight each, by a sum over ±12 σ."""
    sigma, other = softplus(q[1]), softplus(w[1])
    x = np.linspace(q[0] - 12 * sigma, q[0] + 12 * sigma, 4001)
    log_q = -0.5 * ((x - q[0]) / sigma) ** 2 - np.log(sigma)
    log_w = -0.5 * ((x - w[0]) / other) ** 2 - np.log(other)
    density = np.exp(log_q) / np.sqrt(2 * np.pi)
    return (density * (log_q - log_w)).sum() * (x[1] - x[0])


PAIRS = [
    ((0.3, -2.5), (0.1, -3.0)),
    ((0.3, -1.0), (-0.4, 0.5)),
    ((-2.0, 1.0), (1.0, -1.0)),
]


def as_gaussian(pairs):
    mean, rho = np.array(pairs).T
    return Gaussian({"a": jnp.asarray(mean)}, {"a": jnp.asarray(rho)})


def test_divergence_and_its_gradients_are_those_of_the_integral():
    qs, ws = zip(*PAIRS, strict=True)
    q, w = as_gaussian(qs), as_gaussian(ws)
    expected = sum(integral(*pair) for pair in PAIRS)
    np.testing.assert_allclose(divergence(q, w), expected, rtol=1e-10)
    for number in (0, 1):
        ours = jax.grad(divergence, argnums=number)(q, w)
        for i, pair in enumerate(PAIRS):
            for part in (0, 1):
                up, down = np.array([pair, pair])
                up[number, part] += 1e-5
                down[number, part] -= 1e-5
                slope = (integral(*up) - integral(*down)) / 2e-5
                np.testing.assert_allclose(ours[part]["a"][i], slope, rtol=1e-6)


def test_with_equal_spread_the_pull_is_that_of_a_distance():
    mean, other = np.array([1.0, -2.0, 0.5]), np.array([0.0, 0.4, 0.5])
    rho = np.array([-3.0, -1.0, 2.0])
    q, w = (as_gaussian(np.stack([m, rho], axis=1)) for m in (mean, other))
    sigma = softplus(rho)
    expected = ((mean - other) ** 2 / (2 * sigma**2)).sum()
    np.testing.assert_allclose(divergence(q, w), expected, rtol=1e-12)
    pull = jax.grad(divergence)(q, w)
    np.testing.assert_allclose(pull.mean["a"], (mean - other) / sigma**2, rtol=1e-12)


@pytest.mark.parametrize("number", [0, 1])
def test_where_both_are_equal_nothing_pulls(number):
    """To the bit: Adam would make a step of any rounding. Compiled as users compile."""
    rng = np.random.default_rng(0)
    q = as_gaussian(rng.normal(size=(1000, 2)) * 3)
    pull = jax.jit(
        jax.grad(divergence, argnums=number),
        compiler_options={"xla_backend_optimization_level": 3},
    )(q, q)
    for leaf in jax.tree.leaves(pull):
        np.testing.assert_array_equal(leaf, 0)


def test_personal_models_must_be_kept():
    with pytest.raises(InputError, match=r"--keep_personal=false .*pfedbayes"):
        pfedbayes(mclr_loss, Schedule(keep_personal=False), Sampler((1,)))


def test_a_distribution_is_twice_a_model():
    sent = ALGORITHMS["pfedbayes"].traffic(HParams(), Schedule(), Sampler((4, 5)))
    assert sent == (18, 18, 0, 0)
