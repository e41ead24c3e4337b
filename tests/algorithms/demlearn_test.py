"""DemLearn against a plain loop over SciPy's tree, and its two ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.cluster import hierarchy
from worlds import WORLDS, of_quadratics, traced, vectors, world

from permfl_jax import runner
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.algorithms.demlearn import LEVELS, HParams, demlearn
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = {"device_lr": 0.1, "device_prox": 0.4, "server_share": 0.3}


@dataclasses.dataclass
class Node:
    """A group of two devices or more, or one device."""

    devices: list
    children: list
    model: np.ndarray | None = None


def tree_of(theta, devices, levels):
    """Cut `levels` branches below the root; the devices hang below."""
    if len(devices) == 1:
        return Node(devices, [])

    def node(branch, below):
        members = [devices[leaf] for leaf in branch.pre_order()]
        if branch.is_leaf() or below == 0:
            leaves = [Node([n], []) for n in members] if len(members) > 1 else []
            return Node(members, leaves)
        sides = [node(side, below - 1) for side in (branch.left, branch.right)]
        return Node(members, sides)

    linked = hierarchy.linkage(theta[devices], method="average")
    return node(hierarchy.to_tree(linked), levels)


def up(node, theta, weight):
    """Sets each node's model to the mean of its children by their weight."""
    if not node.children:
        node.model = theta[node.devices[0]]
    else:
        for child in node.children:
            up(child, theta, weight)
        mass = [sum(weight[n] for n in child.devices) for child in node.children]
        models = [child.model for child in node.children]
        node.model = np.average(models, axis=0, weights=mass)


def down(node, share, theta, above):
    """child <- (1 - α_d) child + α_d parent; notes the parent of each device."""
    for child in node.children:
        child.model = (1 - share) * child.model + share * node.model
        if len(child.devices) == 1:
            theta[child.devices[0]] = child.model
            above[child.devices[0]] = node.model
        down(child, share, theta, above)


def demlearn_loop(place, rounds, steps, *, alpha, mu, share):
    """SPEC C.6. Gives (θ [D], root, what each is pulled to [D], mini-batches)."""
    num = len(place.team)
    theta, seen = np.tile(place.start, (num, 1)), np.zeros(num, int)
    above, root = np.tile(place.start, (num, 1)), place.start
    for t in range(rounds):
        devices = place.acting(t)
        for n in devices:
            for _ in range(steps):
                pull = mu * (theta[n] - above[n]) if t else 0
                slope = place.gradient(n, seen[n], theta[n])
                theta[n] = theta[n] - alpha * (slope + pull)
                seen[n] += 1
        top = tree_of(theta, devices, LEVELS)
        up(top, theta, place.weight)
        root = top.model
        above = np.tile(root, (num, 1))
        down(top, share, theta, above)
    return theta, root, above, seen


def pulled_to(state):
    """`[D, P]`: the model that each device is pulled to next."""
    groups, label = state.extra
    models = vectors(groups, 2**LEVELS)
    with_root = np.concatenate([models, vectors(state.server, 1)])
    return with_root[np.asarray(label)]


@pytest.mark.parametrize("name", WORLDS)
def test_equals_the_plain_loop(name):
    place = world(name)
    theta, root, above, seen = demlearn_loop(place, 4, 6, alpha=0.1, mu=0.4, share=0.3)
    state = place.run("demlearn", NUMBERS, 4, **STEPS)
    np.testing.assert_allclose(vectors(state.device, len(seen)), theta, rtol=1e-9)
    np.testing.assert_allclose(vectors(state.server, 1)[0], root, rtol=1e-9)
    np.testing.assert_allclose(pulled_to(state), above, rtol=1e-9)
    np.testing.assert_array_equal(state.cursor, seen)
    assert state.team is None


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 2), (2, 3), (9, 4)])
def test_equals_the_plain_loop_with_few_and_many_devices(sizes):
    """Branches of one device, and groups that nobody is in."""
    place = of_quadratics(oracles.random_quadratics(31, sizes, 2))
    theta, root, above, _ = demlearn_loop(place, 3, 6, alpha=0.1, mu=0.4, share=0.3)
    state = place.run("demlearn", NUMBERS, 3, **STEPS)
    np.testing.assert_allclose(state.device, theta, rtol=1e-9)
    np.testing.assert_allclose(state.server, root, rtol=1e-9)
    np.testing.assert_allclose(pulled_to(state), above, rtol=1e-9)


@pytest.mark.parametrize("name", ["samples", "samples_draws_batches", "draws"])
def test_with_a_whole_share_it_is_fedavg(name):
    """Whatever the tree: who acts gets the root, the mean by the weights."""
    place = world(name)
    numbers = NUMBERS | {"server_share": 1.0, "device_prox": 0.0}
    state = place.run("demlearn", numbers, 1, **STEPS)
    plain = place.run("fedavg", {"device_lr": 0.1}, 1, **STEPS)
    root = vectors(state.server, 1)
    np.testing.assert_allclose(root, vectors(plain.server, 1), rtol=1e-12)
    rows = vectors(state.device, len(place.team))[place.acting(0)]
    np.testing.assert_array_equal(rows, np.broadcast_to(root, rows.shape))


@pytest.mark.parametrize("mu", [0.0, 0.4])
@pytest.mark.parametrize("name", ["uniform", "batches"])
def test_with_a_whole_share_it_stays_fedavg(name, mu):
    """All start alike again; with μ it is FedProx, but for the first round."""
    place = world(name)
    numbers = NUMBERS | {"server_share": 1.0, "device_prox": mu}
    state = place.run("demlearn", numbers, 4, **STEPS)
    if mu == 0:
        other = place.run("fedavg", {"device_lr": 0.1}, 4, **STEPS)
    else:
        first = place.run("fedavg", {"device_lr": 0.1}, 1, **STEPS)
        algorithm = place.algorithm("fedprox", **STEPS)
        prox = traced("fedprox", {"device_lr": 0.1, "device_prox": mu})
        run = runner.run(
            algorithm, jax.random.key(12), prox, first, place.federation, 3
        )
        *_, (other, _) = run
    root = vectors(state.server, 1)
    np.testing.assert_allclose(root, vectors(other.server, 1), rtol=1e-10)


@pytest.mark.parametrize("name", ["samples", "batches"])
def test_without_share_and_pull_it_is_local_training(name):
    place = world(name)
    numbers = {"device_lr": 0.1, "device_prox": 0.0, "server_share": 0.0}
    state = place.run("demlearn", numbers, 3, **STEPS)
    alone = place.run("local", {"device_lr": 0.1}, 3, **STEPS)
    num = len(place.team)
    np.testing.assert_allclose(
        vectors(state.device, num), vectors(alone.device, num), rtol=1e-12
    )


def test_the_order_of_devices_does_not_matter():
    f = oracles.random_quadratics(32, (7,), 3)
    order = np.random.default_rng(33).permutation(7)
    shuffled = dataclasses.replace(f, hessian=f.hessian[order], linear=f.linear[order])
    one, other = (
        of_quadratics(g).run("demlearn", NUMBERS, 4, **STEPS) for g in (f, shuffled)
    )
    np.testing.assert_allclose(other.device, one.device[order], rtol=1e-10)
    np.testing.assert_allclose(other.server, one.server, rtol=1e-10)


def test_planted_groups_are_found():
    """Four groups, two and two near each other, are its two upper levels.

    Of the three levels in Dem-AI's settings; the lowest splits each group once more.
    """
    assert LEVELS == 3
    centre = np.array([[5.0, 5], [5, 6], [-5, 5], [-5, 6]])
    group = np.array([0, 2, 1, 3, 0, 1, 2, 3, 3, 2])
    f = oracles.random_quadratics(34, (10,), 2)
    f.hessian = np.tile(np.eye(2), (10, 1, 1))
    noise = np.random.default_rng(35).normal(size=(10, 2))
    f.linear = centre[group] + 0.05 * noise
    state = of_quadratics(f).run("demlearn", NUMBERS, 5, **STEPS)
    label = np.asarray(state.extra.device)
    # Numbered by the first device of each.
    np.testing.assert_array_equal(label // 2, group)
    np.testing.assert_array_equal(label // 4, group // 2)
    assert len(set(label)) == 8


@pytest.mark.parametrize("name", ["draws", "samples_draws_batches"])
def test_absentees_keep_their_bits_and_hang_below_the_root(name):
    place = world(name)
    before = place.run("demlearn", NUMBERS, 2, **STEPS)
    after = place.run("demlearn", NUMBERS, 3, **STEPS)
    acted = np.isin(np.arange(len(place.team)), place.acting(2))
    rows = [vectors(s.device, len(acted)) for s in (before, after)]
    np.testing.assert_array_equal((rows[0] == rows[1]).all(axis=1), ~acted)
    np.testing.assert_array_equal(after.extra.device == 2**LEVELS, ~acted)
    assert 0 < acted.sum() < len(acted)


def test_it_cannot_do_without_personal_models():
    with pytest.raises(
        InputError,
        match=r"^--keep_personal=false leaves --algorithm=demlearn nothing: .*",
    ):
        world("uniform").algorithm("demlearn", keep_personal=False)


def test_too_many_devices_for_all_their_distances():
    def build(sampler):
        return demlearn(lambda *_: jnp.zeros(1), Schedule(), sampler)

    build(Sampler((1500, 500)))
    build(Sampler((1500, 1500), devices_per_round=1000))
    with pytest.raises(InputError) as caught:
        build(Sampler((1500, 501)))
    assert str(caught.value) == (
        "--algorithm=demlearn compares every two of the devices that act in a round, "
        "so at most 2000 may, got 2001: lower --devices_per_round or --teams_per_round."
    )


def test_a_model_travels_each_way():
    sent = ALGORITHMS["demlearn"].traffic(HParams(), Schedule(), Sampler((2, 3)))
    assert sent == (5, 5, 0, 0)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("device_lr", 0.0, "above 0"),
        ("device_prox", -1.0, "at least 0"),
        ("server_share", -0.5, "at least 0 and at most 1"),
        ("server_share", 1.5, "at least 0 and at most 1"),
    ],
)
def test_numbers_are_checked(name, value, allowed):
    with pytest.raises(InputError) as caught:
        HParams(**{name: value})
    assert str(caught.value) == f"--hparam={name} must be {allowed}, got {value:g}."
