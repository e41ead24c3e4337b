"""Warnings appear when they are true, and only then."""

import dataclasses

import numpy as np
import oracles
import pytest
from federations import gains, quadratic_federation, quadratic_loss, run_permfl

from permfl_jax import advice, theory
from permfl_jax.algorithms.permfl import HParams
from permfl_jax.measure import Measured
from permfl_jax.schedule import Schedule

CURVATURE = 4.0
# Stable at every level, quick enough, and no tier is held.
GOOD = HParams(
    device_lr=0.15, team_lr=0.3, server_lr=0.5, device_prox=2.0, team_prox=1.0
)
LONG = Schedule(team_steps=40, device_steps=40)
ROUNDS = 100


def measured(smoothness=CURVATURE, best=0.0, smallest=50):
    return Measured(smoothness, best, smallest)


def warnings(hparams=GOOD, schedule=LONG, rounds=ROUNDS, found=None, l2=0.1):
    found = measured() if found is None else found
    texts = advice.three_tier(hparams, schedule, rounds, found, l2)
    for text in texts:
        assert text.endswith(".")
        assert ". " not in text
        assert "\n" not in text
    return texts


def replace(**changes):
    return dataclasses.replace(GOOD, **changes)


def limits(hparams=GOOD, high=CURVATURE):
    """SPEC A.4: each step size converges if and only if it is below this."""
    lam, gamma = hparams.device_prox, hparams.team_prox
    return {
        "device_lr": 2 / (high + lam),
        "team_lr": 2 / (1 / (1 / high + 1 / lam) + gamma),
        "server_lr": 2 / (1 / (1 / high + 1 / lam + 1 / gamma)),
    }


def run(hparams, schedule, rounds):
    """|x - x*| before and after, on devices of one curvature."""
    f = oracles.random_quadratics(0, (1, 2), 1)
    f.hessian[:] = CURVATURE
    f.linear[:] = CURVATURE * np.array([[1.0], [2.0], [5.0]])
    centre = (1 + (2 + 5) / 2) / 2
    state = run_permfl(
        quadratic_loss,
        quadratic_federation(f),
        np.zeros(1),
        hparams.traced(),
        rounds,
        team_steps=schedule.team_steps,
        device_steps=schedule.device_steps,
    )
    return centre, abs(float(state.server[0]) - centre)


def advised(text, name):
    """The value that a sentence tells the user to set."""
    return float(text.split(f"--hparam={name}=")[1].split()[0])


def test_good_numbers_give_no_warning():
    assert warnings() == []


def test_over_relaxation_alone_gives_no_warning():
    """SPEC A.4: βγ > 1 is stable while βL_F < 2."""
    fast = replace(server_lr=0.9 * limits()["server_lr"])
    assert fast.server_lr * fast.team_prox > 3
    assert warnings(fast) == []
    before, after = run(fast, LONG, 40)
    assert after < before / 10


@pytest.mark.parametrize(
    # A device that diverges takes the other tiers with it, so one round is enough.
    ("name", "rounds"),
    [("device_lr", 1), ("team_lr", 5), ("server_lr", 30)],
)
def test_the_limit_of_each_step_size_is_where_the_algorithm_diverges(name, rounds):
    limit = limits()[name]
    above, below = replace(**{name: 1.05 * limit}), replace(**{name: 0.95 * limit})
    (text,) = warnings(above)
    assert text.startswith(f"{name} (")
    assert "will diverge" in text
    assert f"= {limit:.3g} at" in text
    assert advised(text, name) == pytest.approx(limit / 2, rel=0.05)
    assert not [text for text in warnings(below) if "diverge" in text]
    # What it says is true of Algorithm 1 itself.
    before, after = run(above, LONG, rounds)
    assert after > 10 * before
    before, after = run(below, LONG, 30)
    assert after < before


def test_the_advised_step_sizes_are_stable():
    for name in ("device_lr", "team_lr", "server_lr"):
        (text,) = warnings(replace(**{name: 100.0}))
        assert warnings(replace(**{name: advised(text, name)})) == []


def test_the_lowest_unstable_level_is_named_first():
    texts = warnings(replace(device_lr=9.0, team_lr=9.0, server_lr=99.0))
    assert texts[0].startswith("device_lr (")
    texts = warnings(replace(team_lr=9.0, server_lr=99.0))
    assert texts[0].startswith("team_lr (")


def test_an_unstable_verdict_holds_for_the_loops_that_are_run():
    """With short inner loops the server's steps are shorter, and its limit higher.

    SPEC E-Q2: with the paper's numbers βγ = 12 is unstable with exact inner solves,
    but K = 10 and L = 20 are stable beyond βγ = 40.
    """
    schedule = Schedule(team_steps=10, device_steps=20)
    paper = HParams(server_lr=20 / 1.5)  # Table 2, but βγ = 20
    found = measured(smoothness=CURVATURE)
    assert paper.server_lr > 1.5 * limits(paper)["server_lr"]
    before, after = run(paper, schedule, 30)
    assert after < before / 100
    texts = warnings(paper, schedule, found=found)
    assert not [text for text in texts if "will diverge" in text]


def test_a_pull_of_the_devices_alone_counts_for_their_step_size():
    """SPEC A.2: with a separate pull, the device steps have curvature L + that pull."""
    split = replace(device_pull=10.5)
    assert split.device_lr * (CURVATURE + split.device_pull) > 2
    before, after = run(split, LONG, 1)
    assert after > 10 * before
    assert [text.split()[0] for text in warnings(split)] == ["device_lr"]


def test_curvature_known_from_the_penalty_counts_even_if_not_measured():
    assert warnings(found=measured(smoothness=0.0), l2=CURVATURE) == []
    (text,) = warnings(found=measured(smoothness=0.0), l2=100.0)
    assert text.startswith("device_lr")
    assert "L = 100" in text


def test_a_flat_loss_gives_no_verdict_on_the_server():
    hparams = replace(server_lr=1e6)
    texts = warnings(hparams, found=measured(smoothness=0.0), l2=0.0)
    assert not [text for text in texts if "server_lr" in text]


@pytest.mark.parametrize("loop", ["device_steps", "team_steps"])
def test_too_few_steps_are_named_with_the_number_that_is_enough(loop):
    few = dataclasses.replace(LONG, **{loop: 2})
    (text,) = warnings(schedule=few)
    assert text.startswith(f"--{loop} (")
    need = int(text.split("; ")[1].split()[0])
    assert warnings(schedule=dataclasses.replace(few, **{loop: need})) == []
    (text,) = warnings(schedule=dataclasses.replace(few, **{loop: need - 1}))
    assert text.startswith(f"--{loop} (")
    # More rounds need more inner steps: their error must fall below 1/T.
    assert len(
        warnings(schedule=dataclasses.replace(few, **{loop: need}), rounds=10**4)
    )


@pytest.mark.parametrize("loop", ["device_steps", "team_steps"])
def test_the_bias_that_few_steps_leave_is_real(loop):
    """SPEC A.4 (ii): a floor that more steps lower, and that more rounds do not."""
    f = oracles.random_quadratics(3, (3, 3), 4, low=0.1, high=CURVATURE)
    numbers = GOOD.traced()
    best, _, _ = oracles.optimum(f, GOOD.device_prox, GOOD.team_prox)
    errors = []
    for steps in (2, 40):
        loops = {"team_steps": 40, "device_steps": 40} | {loop: steps}
        matrix, vector = oracles.round_map(f, *map(float, numbers), **loops)
        fixed = np.linalg.solve(np.eye(4) - matrix, vector)
        errors.append(np.linalg.norm(fixed - best))
    few = dataclasses.replace(LONG, **{loop: 2})
    assert len(warnings(schedule=few)) == 1
    assert errors[0] > 1 / ROUNDS > errors[1]


def test_steps_that_never_suffice_are_not_asked_for():
    # A flat direction without a pull does not move, however many steps are taken.
    hparams, few = replace(device_prox=0.0), dataclasses.replace(LONG, device_steps=1)
    cut, text = warnings(hparams, few, l2=0.1)
    assert text.startswith("--device_steps (")
    assert warnings(hparams, few, l2=0.0) == [cut]


@pytest.mark.parametrize(("team_prox", "held"), [(1.0, False), (50.0, True)])
def test_a_team_that_the_server_holds_is_named(team_prox, held):
    hparams = replace(
        team_prox=team_prox, team_lr=0.9 / (team_prox + 2), server_lr=0.02
    )
    texts = [t for t in warnings(hparams) if t.startswith("team_prox (")]
    assert bool(texts) == held
    moved = theory.progress(
        CURVATURE,
        device_lr=hparams.device_lr,
        team_lr=hparams.team_lr,
        server_lr=hparams.server_lr,
        device_prox=hparams.device_prox,
        team_prox=hparams.team_prox,
        team_steps=10**6,
        device_steps=LONG.device_steps,
    )
    # The share that the sentence states is what endless team rounds would reach.
    assert (moved.team < 0.05) == held
    if held:
        assert f" {moved.team:.1%} of the way" in texts[0]


@pytest.mark.parametrize("zero", ["device_prox", "team_prox"])
def test_no_link_is_not_a_server_that_holds(zero):
    texts = warnings(replace(**{zero: 0.0}))
    assert not [text for text in texts if text.startswith("team_prox (")]


def test_a_small_pull_for_small_devices_is_named():
    best = 10.5 * GOOD.device_prox
    (text,) = warnings(found=measured(best=best, smallest=12))
    assert text.startswith("device_prox (λ = 2) is small")
    assert "12 samples" in text
    assert "about 21;" in text
    assert warnings(found=measured(best=9.5 * GOOD.device_prox)) == []
    assert warnings(found=measured(best=0.0)) == []


@pytest.mark.parametrize(
    ("hparams", "loops"),
    [
        (
            {"device_lr": 0.6, "device_prox": 1.0, "team_lr": 0.2, "server_lr": 1.0},
            (5, 1),
        ),
        ({"team_lr": 2.2, "device_prox": 1.0, "server_lr": 0.2}, (1, 20)),
    ],
)
def test_short_loops_that_overshoot_are_not_said_to_diverge(hparams, loops):
    """Each begins anew from the model above: nothing is left to grow."""
    hparams, schedule = (
        replace(**hparams),
        Schedule(team_steps=loops[0], device_steps=loops[1]),
    )
    texts = warnings(hparams, schedule, l2=CURVATURE)
    assert [text for text in texts if "overshoots, and would diverge in longer" in text]
    assert not [text for text in texts if "will diverge" in text]
    before, after = run(hparams, schedule, 100)
    assert after < 1e-3 * before


def test_growth_inside_the_interval_of_curvature_is_seen():
    """With even L the steepest direction hides its length from the level above."""
    lam, gamma, alpha = 1.0, 0.1, 1.98 / 11
    share = {h: theory.device_share(h, alpha, lam, 2) for h in (4.0, 10.0)}
    assert share[10.0] < 0.1 * share[4.0]
    team_lr = 2.6 / (gamma + lam * share[4.0])
    assert team_lr * (gamma + lam * share[10.0]) < 2  # at the end all is well
    hparams = replace(
        device_lr=alpha,
        team_lr=team_lr,
        server_lr=1.0,
        device_prox=lam,
        team_prox=gamma,
    )
    schedule = Schedule(team_steps=10, device_steps=2)
    (text,) = warnings(hparams, schedule, found=measured(10.0), l2=4.0)
    assert text.startswith("team_lr (")
    where = float(text.split("will diverge where curvature is ")[1].split(":")[0])
    assert 4 <= where < 10
    before, after = run(hparams, schedule, 20)  # of curvature 4 alone
    assert after > 1e3 * before


@pytest.mark.parametrize("cut", ["device_prox", "team_prox", "server_lr", "team_lr"])
def test_a_link_that_is_cut_is_told(cut):
    """SPEC A.5: x does not move."""
    texts = warnings(replace(**{cut: 0.0}))
    (text,) = [text for text in texts if text.startswith("The global model will stay")]
    assert f"{cut} (" in text
    before, after = run(replace(**{cut: 0.0}), LONG, 5)
    assert before == after


def test_a_pull_of_zero_is_a_choice():
    texts = warnings(replace(device_prox=0.0), found=measured(best=100.0))
    assert not [text for text in texts if text.startswith("device_prox")]


def test_the_papers_numbers_are_warned_of():
    """SPEC A.4: K, L leave a large bias at Table 2's values; nothing is unstable."""
    texts = warnings(HParams(), Schedule(), 400, measured(smoothness=8.0), l2=0.0)
    assert [text.split()[0] for text in texts] == ["--device_steps", "--team_steps"]


def test_gains_of_the_oracle_are_those_of_the_method():
    numbers = gains(0.15, 2.0, 0.6, 0.3, 0.5)
    np.testing.assert_allclose(np.array(GOOD.traced()), np.array(numbers), rtol=1e-15)
