"""Coded and lost uploads of whole methods, against plain loops and each other."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import oracles_uplink
import pytest
import thoroughly
from federations import classes_federation, gains, mclr_loss, mclr_params, mesh_of
from worlds import SEED, of_quadratics, traced, vectors, world

from permfl_jax import placement, runner, sweep, uploads
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.errors import InputError
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule
from permfl_jax.uplink import Code, Link, Uplink

THIRD = Code("topk", 0.34)  # 1 of 3 numbers
INT8 = Code("int8")
STEPS = {"team_steps": 2, "device_steps": 3}
NUMBERS = (0.1, 0.5, 0.3, 0.2, 0.8)
TAKES = {
    "permfl": ("device", "team"),
    "permfl_auto": ("device", "team"),
    "hsgd": ("device", "team"),
    "fedavg": ("device",),
    "fedprox": ("device",),
    "perfedavg": ("device",),
    "finetune": ("device",),
    "ditto": ("device",),
    "pfedme": ("device",),
}
UPLINKS = {
    "topk": Uplink(device=THIRD, team=THIRD),
    "int8": Uplink(device=INT8, team=INT8),
    "loss": Uplink(device_loss=0.4, team_loss=0.4),
    "all": Uplink(device=THIRD, team=INT8, device_loss=0.3, team_loss=0.5),
    "forgets": Uplink(device=THIRD, team=THIRD, device_loss=0.2, memory=False),
}


def keys_of(tier, draw):
    """Of one sender, folded one number at a time: for its lot, and for its code."""
    t, k, number = draw
    key = jax.random.key(SEED)
    for part in (6, t, ("device", "team").index(tier), k, number):
        key = jax.random.fold_in(key, part)
    return jax.random.split(key)


def tier_of(uplink, tier, count, dim):
    code, loss = getattr(uplink, tier), getattr(uplink, f"{tier}_loss")

    @functools.cache
    def arrives(draw):
        return bool(jax.random.uniform(keys_of(tier, draw)[0], dtype="float32") >= loss)

    def rounded(draw, message):
        return np.asarray(INT8(keys_of(tier, draw)[1], jnp.asarray(message)))

    code = code and (rounded if code == INT8 else oracles_uplink.largest(code.share))
    return oracles_uplink.Tier(count, dim, code, arrives, uplink.memory)


def ends(place, name, numbers, uplink, rounds=4, **schedule):
    """The state after `rounds` of a method on its traced numbers."""
    algorithm = place.algorithm(name, uplink=uplink, **STEPS | schedule)
    state = runner.start(algorithm, place.params, place.federation)
    key = jax.random.key(SEED)
    *_, (end, _) = runner.run(algorithm, key, numbers, state, place.federation, rounds)
    return end


@pytest.mark.parametrize(
    ("name", "aggregate", "kind"),
    [
        ("uniform", "participants", "topk"),
        ("uniform", "participants", "int8"),
        ("uniform", "stale_seen", "loss"),
        ("uniform", "stale", "all"),
        ("samples_draws", "participants", "all"),
        ("samples_draws", "participants", "forgets"),
        ("samples_draws", "stale", "topk"),
        ("samples_draws", "stale_seen", "all"),
    ],
)
def test_permfl_is_the_plain_loop(name, aggregate, kind):
    place, uplink = world(name), UPLINKS[kind]
    dim, rounds = len(place.start), 4
    tiers = [
        tier_of(uplink, tier, count, dim)
        for tier, count in (("device", len(place.team)), ("team", 3))
    ]
    expected = oracles_uplink.permfl(
        place, NUMBERS, rounds, *STEPS.values(), *tiers, aggregate
    )
    state = ends(place, "permfl", gains(*NUMBERS), uplink, rounds, aggregate=aggregate)
    models = (state.server, state.team, state.device)
    for got, wanted in zip(models, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)
    memories = (state.uploads.device, state.uploads.team)
    for tier, kept in zip(tiers, memories, strict=True):
        if kept is None:
            assert tier.code is None or not uplink.memory
        else:
            np.testing.assert_allclose(kept, tier.memory, rtol=1e-10, atol=1e-12)
            assert np.abs(kept).max() > 1e-5


@pytest.mark.parametrize(
    ("name", "kind"), [("uniform", "loss"), ("samples_draws", "all")]
)
def test_models_need_not_be_kept(name, kind):
    place = world(name)
    kept, dropped = (
        ends(place, "permfl", gains(*NUMBERS), UPLINKS[kind], keep_personal=keep)
        for keep in (True, False)
    )
    assert dropped.device is None
    chex.assert_trees_all_close(
        dropped, kept._replace(device=None), rtol=1e-12, atol=1e-14
    )


AVERAGING = gains(0.1, 0.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("samples_draws", "all"), ("batches", "loss")]
)
def test_hsgd_is_the_core_with_whole_moves(name, kind):
    place = world(name)
    hsgd = ends(place, "hsgd", traced("hsgd", {"device_lr": 0.1}), UPLINKS[kind])
    core = ends(place, "permfl", AVERAGING, UPLINKS[kind])
    chex.assert_trees_all_close(
        hsgd, core._replace(device=None), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("samples_draws", "all"), ("batches", "loss")]
)
def test_permfl_auto_that_does_not_adapt_is_permfl(name, kind):
    hparams = {"device_lr": 0.1, "team_lr": 0.2, "server_lr": 0.7}
    auto, permfl = (
        ends(world(name), method, traced(method, numbers), UPLINKS[kind])
        for method, numbers in (
            ("permfl_auto", hparams | {"adapt": 0.0}),
            ("permfl", hparams),
        )
    )
    chex.assert_trees_all_close(
        auto._replace(extra=None), permfl._replace(extra=None), rtol=1e-12, atol=1e-14
    )


ALONE = Uplink(device=THIRD)
RATE = {"device_lr": 0.1}
PFEDME = RATE | {"device_prox": 2.0, "local_lr": 0.2, "server_lr": 0.7}


def one_device_teams(place):
    sizes, team = (1,) * len(place.team), np.arange(len(place.team))
    federation = dataclasses.replace(
        place.federation, team=jnp.asarray(team, jnp.int32)
    )
    return dataclasses.replace(
        place, federation=federation, team=team, sampler=Sampler(sizes)
    )


@pytest.mark.parametrize(
    ("name", "hparams", "core"),
    [
        ("fedavg", RATE, AVERAGING),
        ("pfedme", PFEDME, gains(0.1, 2.0, 0.4, 0.0, 0.7)),
    ],
)
def test_a_device_without_a_team_sends_as_a_team_of_one(name, hparams, core):
    """K·L steps in one exchange, or K exchanges that nobody codes."""
    place = world("samples")
    flat = ends(place, name, traced(name, hparams), ALONE)
    teams = ends(one_device_teams(place), "permfl", core, Uplink(team=THIRD))
    chex.assert_trees_all_close(flat.server, teams.server, rtol=1e-11, atol=1e-13)
    chex.assert_trees_all_close(
        flat.uploads.device, teams.uploads.team, rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize(
    ("name", "hparams"),
    [
        ("fedprox", RATE | {"device_prox": 0.0}),
        ("finetune", RATE),
        ("ditto", RATE | {"personal_lr": 0.2, "device_prox": 0.5}),
    ],
)
def test_relatives_of_fedavg_send_as_it_does(name, hparams):
    place, uplink = world("samples_draws_batches"), Uplink(device=INT8, device_loss=0.4)
    one, fedavg = (
        ends(place, method, traced(method, numbers), uplink)
        for method, numbers in ((name, hparams), ("fedavg", RATE))
    )
    chex.assert_trees_all_close(one.server, fedavg.server, rtol=1e-12)
    chex.assert_trees_all_equal_structs(one.uploads, fedavg.uploads)


COUNTS, TEAMS = [3, 9, 4, 5, 6, 2, 7, 4], [0, 0, 1, 1, 2, 2, 3, 3]
SMALL = {"team_steps": 2, "device_steps": 2, "batch_size": 4}


def built(name, uplink, draws=(None, None), **schedule):
    federation, _ = classes_federation(0, COUNTS, TEAMS)
    schedule = Schedule(**SMALL | schedule, uplink=uplink)
    sampler = Sampler.of(federation, *draws)
    algorithm = ALGORITHMS[name].factory(mclr_loss, schedule, sampler)
    return algorithm, federation


def trajectory(name, algorithm, federation, rounds=3, per_call=1):
    state = runner.start(algorithm, mclr_params(1), federation)
    hparams = ALGORITHMS[name].hparams(device_lr=0.1).traced()
    *_, (end, metrics) = runner.run(
        *(algorithm, jax.random.key(3), hparams, state, federation, rounds, per_call)
    )
    return placement.to_host(end), metrics


ONE_TIER = {
    "--device_upload=topk:0.34": ("device", Uplink(device=THIRD)),
    "--device_loss=0.4": ("device", Uplink(device_loss=0.4)),
    "--team_upload=int8": ("team", Uplink(team=INT8)),
    "--team_loss=0.4": ("team", Uplink(team_loss=0.4)),
}


@functools.cache
def server_of(name, uplink):
    state, _ = trajectory(name, *built(name, uplink), 2)
    return vectors(state.server, 1)


@pytest.mark.parametrize(
    "flag", thoroughly.cases(ONE_TIER, lambda flag: "loss" in flag)
)
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_method_takes_an_uplink_or_says_that_it_cannot(name, flag):
    tier, uplink = ONE_TIER[flag]
    if tier not in TAKES.get(name, ()):
        with pytest.raises(InputError) as refused:
            built(name, uplink)
        others = "those of devices" if TAKES.get(name) else "none"
        assert str(refused.value) == (
            f"{flag} cannot be used with --algorithm={name}: of its uploads, {others} "
            "can be coded or lost."
        )
        return
    with_it, without = (server_of(name, one) for one in (uplink, None))
    assert np.abs(with_it - without).max() > 1e-7


@pytest.mark.parametrize("name", TAKES)
def test_an_uplink_that_does_nothing_is_none(name):
    """The same program, to the letter."""

    def program(uplink):
        algorithm, federation = built(name, uplink)
        state = algorithm.init(mclr_params(1), len(COUNTS), 4)
        assert state.uploads is None
        numbers = ALGORITHMS[name].hparams().traced()
        lowered = jax.jit(algorithm.round).lower(
            jax.random.key(0), numbers, state, federation
        )
        return lowered.as_text()

    nothing = Uplink(device_loss=0.0, team_loss=0.0, memory=False)
    assert program(nothing) == program(None)
    some = Uplink(device_loss=0.1)
    with pytest.raises(AssertionError):
        program(some)


# With device models, without, and without teams; all others by --thorough.
@pytest.mark.parametrize(
    "name", thoroughly.cases(TAKES, lambda name: name in ("permfl", "hsgd", "fedavg"))
)
def test_a_loss_that_never_happens_and_a_code_that_sends_all(name):
    rare, everything, tiers = 1e-12, Code("topk", 1.0), TAKES[name]
    without, *others = (
        trajectory(name, *built(name, uplink, (2, 1)))[0]._replace(uploads=None)
        for uplink in (
            None,
            Uplink(**{f"{tier}_loss": rare for tier in tiers}),
            Uplink(**dict.fromkeys(tiers, everything)),
        )
    )
    for one in others:
        chex.assert_trees_all_close(one, without, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "code", "draws", "aggregate"),
    [
        ("permfl", None, (None, None), "participants"),
        ("permfl", THIRD, (2, 1), "stale_seen"),
        ("hsgd", THIRD, (None, None), "stale"),
        ("permfl_auto", None, (2, 1), "participants"),
    ],
)
def test_nothing_arrives_so_the_server_stays(name, code, draws, aggregate):
    lost = Uplink(device=code, team=code, team_loss=1.0)
    algorithm, federation = built(name, lost, draws, aggregate=aggregate)
    state, _ = trajectory(name, algorithm, federation)
    chex.assert_trees_all_close(state.server, mclr_params(1), rtol=1e-14)
    assert any(np.any(x) for x in jax.tree.leaves(state.uploads.device)) == bool(code)
    assert not any(np.any(x) for x in jax.tree.leaves(state.uploads.team))


@pytest.mark.parametrize("name", TAKES)
def test_no_device_arrives_so_nothing_above_moves(name):
    code = {"fedavg": INT8, "permfl": THIRD}.get(name)
    lost = Uplink(device=code, device_loss=1.0)
    state, _ = trajectory(name, *built(name, lost, (2, 1)))
    chex.assert_trees_all_close(state.server, mclr_params(1), rtol=1e-13)
    if state.team is not None:
        everywhere = jax.tree.map(lambda x: np.stack([x] * 4), mclr_params(1))
        chex.assert_trees_all_close(state.team, everywhere, rtol=1e-13)


def test_losses_are_as_frequent_as_said_and_independent():
    """Rounds, exchanges, tiers and senders draw for themselves."""
    key, senders = jax.random.key(SEED), jnp.arange(64)

    def arrived(tier, t, k):
        link = Link(tier, None, 0.3, False)
        exchange = uploads.Exchange(key, jnp.int32(t), k, None, None)
        return np.asarray(uploads.arrivals(link, exchange, senders))

    drawn = np.array(
        [
            arrived(tier, t, k)
            for tier in ("device", "team")
            for t in range(4)
            for k in range(4)
        ]
    )
    assert len({row.tobytes() for row in drawn}) == len(drawn) == 32
    assert abs((~drawn).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / drawn.size)
    # Of one sender, and of one exchange: nobody always or never arrives.
    of_sender = (~drawn).mean(axis=0)
    assert np.abs(of_sender - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 32)


@pytest.mark.parametrize(
    ("name", "draws"),
    [
        ("permfl", (None, None)),
        ("permfl_auto", (None, None)),
        ("hsgd", (2, 1)),
        ("fedavg", (2, 1)),
        ("pfedme", (None, None)),
    ],
)
def test_a_mesh_and_chunks_change_nothing(name, draws):
    uplink = Uplink(device=THIRD, device_loss=0.3)
    if "team" in TAKES[name]:
        uplink = dataclasses.replace(uplink, team=INT8, team_loss=0.3)
    algorithm, federation = built(name, uplink, draws, aggregate="stale_seen")
    placed = placement.place(federation, mesh_of(2, 2), 1)
    alone, spread = (
        trajectory(name, algorithm, where) for where in (federation, placed)
    )
    chex.assert_trees_all_close(spread, alone, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["loss", "all"])
def test_a_mesh_without_kept_models(kind):
    algorithm, federation = built("permfl", UPLINKS[kind], keep_personal=False)
    placed = placement.place(federation, mesh_of(4, 1), 1)
    alone, spread = (
        trajectory("permfl", algorithm, where) for where in (federation, placed)
    )
    chex.assert_trees_all_close(spread, alone, rtol=1e-11, atol=1e-12)


def test_memories_stay_on_the_chips_of_their_senders():
    uplink = dataclasses.replace(UPLINKS["all"], device=INT8)
    algorithm, federation = built("permfl", uplink, aggregate="stale")
    placed = placement.place(federation, mesh_of(2, 2))
    start = runner.start(algorithm, mclr_params(1), placed)
    hparams = ALGORITHMS["permfl"].hparams().traced()

    def rows_on_a_chip(state):
        return {
            (tier, leaf.addressable_shards[0].data.shape[0])
            for tier, rows in state.uploads._asdict().items()
            for leaf in jax.tree.leaves(rows)
        }

    # Of 8 devices on 4 chips; of 4 teams in 2 rows of chips.
    expected = {("device", 2), ("team", 2), ("heard", 2)}
    assert rows_on_a_chip(start) == expected
    *_, (end, _) = runner.run(
        *(algorithm, jax.random.key(3), hparams, start, placed, 1)
    )
    assert rows_on_a_chip(end) == expected


@pytest.mark.parametrize("name", ["permfl", "fedavg"])
def test_every_member_of_a_sweep_is_its_own_run(name):
    uplink = Uplink(device=INT8, device_loss=0.3)
    algorithm, federation = built(name, uplink, (2, 1))
    settings = [ALGORITHMS[name].hparams(device_lr=r).traced() for r in (0.1, 0.2)]
    hparams = jax.tree.map(lambda *x: jnp.stack(x), *settings)
    key = jax.vmap(jax.random.key)(jnp.arange(2))
    params = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), mclr_params(1))
    start = sweep.start_many(algorithm, params, 2, federation)
    *_, (state, _, _) = sweep.run_many(algorithm, key, hparams, start, federation, 3)
    for seed in range(2):
        for number, setting in enumerate(settings):
            model = jax.tree.map(lambda x, seed=seed: x[seed], params)
            own = runner.start(algorithm, model, federation)
            *_, (alone, _) = runner.run(
                algorithm, key[seed], setting, own, federation, 3
            )
            member = sweep.member_of(state, seed, number, federation)
            chex.assert_trees_all_close(member, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["permfl", "pfedme"])
def test_how_rounds_are_grouped_changes_nothing(name):
    uplink = Uplink(device=INT8, device_loss=0.3)
    algorithm, federation = built(name, uplink, (2, 1))
    once, grouped = (trajectory(name, algorithm, federation, 4, n) for n in (1, 4))
    chex.assert_trees_all_close(once[0], grouped[0], rtol=1e-12, atol=1e-14)


# Beznosikov et al., "On Biased Compression for Distributed Learning", JMLR 2023,
# arXiv:2002.12410, example 1: f_n = <a_n, x>² + |x|²/4, all least at 0, and the largest
# entry of each gradient at (1, 1, 1) is the one that points away.
SIGNS = np.array([[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]])
CENTRE = np.array([2.0, -1.0, 0.5])


def contrary():
    """Three such devices in each of two teams, all with their least at `CENTRE`."""
    hessian = 2 * np.einsum("ni,nj->nij", SIGNS, SIGNS) + 0.5 * np.eye(3)
    hessian = np.concatenate([hessian, hessian])
    f = oracles.Quadratics(hessian, hessian @ CENTRE, np.repeat([0, 1], 3), None, None)
    return dataclasses.replace(of_quadratics(f), params=jnp.asarray(CENTRE + 1))


@pytest.mark.parametrize("tier", ["device", "team"])
def test_what_is_left_out_and_sent_later_leads_to_the_optimum(tier):
    """And away from it where it is forgotten: one entry of three, one step each."""
    place, once = contrary(), {"team_steps": 1, "device_steps": 1}
    if tier == "team":  # of one device, whose own mean w then is θ
        place = one_device_teams(place)
    numbers = gains(0.02, 0.0, 1.0, 0.0, 1.0)
    away = {
        memory: np.abs(
            ends(
                place,
                "permfl",
                numbers,
                Uplink(**{tier: THIRD}, memory=memory),
                rounds,
                **once,
            ).server
            - CENTRE
        ).max()
        for memory, rounds in ((True, 4000), (False, 50))
    }
    assert away[True] < 1e-6
    # Each entry of x - CENTRE grows by the factor 1 + 11/6 · 0.02 in a round.
    assert away[False] == pytest.approx((1 + 11 / 6 * 0.02) ** 50, rel=1e-9)


def test_where_devices_disagree_the_way_that_is_left_follows_the_step():
    """θ - w does not vanish: w goes round the optimum, as far as its steps are long."""
    place, once = world("uniform"), {"team_steps": 1, "device_steps": 5}
    steps = (0.2, 0.02)
    away = {}
    for memory in (True, False):
        for size in steps:
            numbers = gains(0.2, 1.0, size, size, 1.0)
            uplink = Uplink(device=THIRD, memory=memory)
            best, state = (
                ends(place, "permfl", numbers, one, round(40 / size), **once)
                for one in (None, uplink)
            )
            away[memory, size] = np.abs(state.server - best.server).max()
    assert away[True, 0.02] < away[True, 0.2] / 8
    assert away[False, 0.02] == pytest.approx(away[False, 0.2], rel=0.05)
    assert away[True, 0.02] < 0.1 * away[False, 0.02]
