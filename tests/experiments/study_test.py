"""Studies: what trains together, what is chosen, and numbers that are those of runs."""

import functools
import json
import shlex

import jax
import numpy as np
import oracles
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import config, machine, studies, study, train
from experiments.studies import cells, page, points, sparse
from experiments.studies.study import Arm, Curve, Study, arms, paper, permfl, tuning
from permfl_jax.errors import InputError

SMALL = "--dataset=digits --num_teams=2 --devices_per_team=2 --num_rounds=4"
SMALL += " --team_steps=2 --device_steps=2 --batch_size=8 --eval_every=2"
LR = 0.05
# Of 40 devices in 4 teams: their teams, and equal weights.
GROUPS = np.repeat(np.arange(4), 10), np.full(40, 0.1), np.full(4, 0.25)


def parsed(*given):
    flags.FLAGS(["study", *given])
    return flags.FLAGS


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_arm_of_every_study_is_allowed(name, quick):
    asked = studies.STUDIES[name]
    with flagsaver.flagsaver():
        plan = cells.plan(asked, quick, parsed())
        cells.check(plan, flags.FLAGS)
    listed = list(asked.arms(quick))
    assert sum(len(cell.arms) for cell in plan) == len(listed)
    assert {arm.panel for arm in listed} <= set(asked.axes)
    keys = [(arm.panel, arm.line, arm.at) for arm in listed]
    assert len(set(keys)) == len(keys)  # no point is drawn twice
    for panel in asked.axes:  # an axis has numbers or names
        assert len({isinstance(a.at, str) for a in listed if a.panel == panel}) < 2


def test_panels_over_rounds_are_there():
    name = "ablations"
    asked = studies.STUDIES[name]
    gains = {curve.panel for curve in exact(name)} | {""}
    for quick in (True, False):
        measured = {arm.panel for arm in asked.arms(quick)}
        assert {panel for panel, _ in asked.over_rounds} <= measured
    assert {gain for _, gain in asked.over_rounds} <= gains
    assert [n for n, other in studies.STUDIES.items() if other.over_rounds] == [name]


@pytest.mark.parametrize("name", sorted(set(studies.STUDIES) - {"auto"}))
def test_exact_curves_have_a_value_at_each_place(name):
    asked = studies.STUDIES[name]
    for curve in exact(name):
        assert len(curve.at) == len(curve.values)
        assert all(value == value for value in curve.values)
        assert curve.panel in asked.axes


@functools.cache
def exact(name, quick=False):
    with flagsaver.flagsaver():
        values = parsed()
        first = cells.plan(studies.STUDIES[name], quick, values)[0]
        return studies.STUDIES[name].exact(cells.config_of(first, values))


def value(curves, panel, line, place):
    (curve,) = [c for c in curves if (c.panel, c.line) == (panel, line)]
    return curve.values[curve.at.index(place)]


def gone_in_a_round(h, alpha, eta, beta, lam, gamma, team_steps, device_steps):
    """Of the way from x = 1 to the optimum 0, by a scalar loop."""
    w = 1.0
    for _ in range(team_steps):
        theta = w
        for _ in range(device_steps):
            theta -= alpha * (h * theta + lam * (theta - w))
        w -= eta * (lam * (w - theta) + gamma * (w - 1.0))
    return beta * gamma * (1.0 - w)


def test_predicted_gains_are_those_of_the_loops_that_are_trained():
    numbers = (LR, 0.03, 0.6, 0.5, 1.5)
    for curves, k, ell in (
        (exact("ablations"), 5, 10),
        (exact("ablations", quick=True), 4, 5),
    ):
        found = value(curves, "gain, β", "h = 0.1", 0.6)
        assert found == pytest.approx(gone_in_a_round(0.1, *numbers, k, ell))
        found = value(curves, "gain, K", "h = 1", 20)
        assert found == pytest.approx(gone_in_a_round(1.0, *numbers, 20, ell))


def test_what_is_left_of_sparse_rounds_is_that_of_the_round_map():
    problem = sparse.problem_of()
    mirror = np.eye(10) - 2 * problem.turn[:, :, None] * problem.turn[:, None]
    hessian = np.einsum("dij,dj,dkj->dik", mirror, problem.curvature, mirror)
    linear = np.einsum("dij,dj->di", hessian, problem.centre)
    f = oracles.Quadratics(hessian, linear, *GROUPS)
    lam, gamma, alpha, k = 0.5, 0.05, LR, 10
    eta, beta = 1 / (lam + gamma), 1 / gamma
    best, _, _ = oracles.optimum(f, lam, gamma)
    mix = (alpha, lam, eta * lam, eta * gamma, beta * gamma, k, 10)
    matrix, vector = oracles.round_map(f, *mix)
    x = np.zeros_like(best)
    for _ in range(100 // k):
        x = matrix @ x + vector
    found = value(exact("sparse"), "distance after T·K = 100", "γ/λ = 0.1", k)
    assert found == pytest.approx(np.linalg.norm(x - best) / np.linalg.norm(best))


@pytest.mark.parametrize("teams", [1, 5, 20])
def test_gm_of_few_teams_errs_by_spreads_that_are_known(teams):
    """Where it is the mean of all: σ_t = 2 between teams, σ_d = τ = 1, 10 devices."""
    curves, each = exact("few_teams"), 1 / (10 * teams)
    own = 4 * (1 - 1 / teams) + (1 - each) + each
    unseen = 4 * (1 + 1 / teams) + (1 + each) + each
    panel = "risk, 10 devices a team"
    assert value(curves, panel, "GM, own teams", teams) == pytest.approx(own)
    assert value(curves, panel, "GM, an unseen team", teams) == pytest.approx(unseen)


def one(panel="p", line="l", at=1, given="", settings=({"device_lr": LR},)):
    return Arm(panel, line, at, given, "permfl", settings)


def of(*listed, exact=()):
    axes = {arm.panel: ("places", "accuracy") for arm in listed}
    axes |= {curve.panel: ("places", "risk") for curve in exact}
    return Study("?", SMALL, "", lambda quick: listed, lambda config: exact, axes)


def test_arms_on_the_same_flags_train_together():
    first, second = {"device_lr": 0.1}, {"device_lr": 0.2}
    listed = (
        one(settings=(first,)),
        one(at=2, settings=(first, second)),
        one(at=3, given="--num_rounds=2"),
    )
    with flagsaver.flagsaver():
        plan = cells.plan(of(*listed), False, parsed())
    assert [cell.settings for cell in plan] == [(first, second), ({"device_lr": LR},)]
    assert plan[0].arms == listed[:2]


def test_the_users_flags_replace_the_studys_and_not_the_arms():
    listed = of(one(given="--batch_size=16"))
    with flagsaver.flagsaver():
        values = parsed("--num_rounds=8")
        plan = cells.plan(listed, False, values)
        found = cells.config_of(plan[0], values)
    assert (found.num_rounds, found.batch_size, found.team_steps) == (8, 16, 2)
    with (
        flagsaver.flagsaver(),
        pytest.raises(InputError, match="--batch_size cannot be used: it is what"),
    ):
        cells.plan(listed, False, parsed("--batch_size=4"))


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("auto", "--nokeep_personal", "permfl_balanced reads what devices keep"),
        ("few_teams", "--teams_per_round=1", "--teams_per_round cannot be used"),
        ("imbalance", "--weights=samples", "--weights cannot be used"),
    ],
)
def test_what_an_arm_cannot_take_is_told_before_anything_trains(name, given, sentence):
    def check(values):
        cells.check(cells.plan(studies.STUDIES[name], False, values), values)

    with flagsaver.flagsaver(), pytest.raises(InputError, match=sentence):
        check(parsed(given))


def test_the_command_repeats_itself():
    with flagsaver.flagsaver():
        values = parsed("--seeds=3,4", "--num_rounds=2", "--devices_per_team=2,3")
        command = study._command("text", True, values)
    assert "--seeds=3,4" in command
    with flagsaver.flagsaver():
        again = parsed(*shlex.split(command)[4:], "--quick")
        assert (again.seeds, again.num_rounds) == (["3", "4"], 2)
        assert again.devices_per_team == ["2", "3"]


def test_seeds_that_diverged_are_told_in_the_table():
    setting = {"device_lr": LR}
    listed = (one(settings=(setting,)),)
    tried = cell(result(setting, "PM", [0.97, None, None], [0.9, None, None]))
    asked = of(*listed)
    text = page.table(asked, points.of([(listed[0], tried)], asked), ())
    assert "97.00 (1 of 3)" in text


def cell(*results):
    return {"results": list(results)}


def result(setting, label, test, validation, curve=()):
    scored = {"accuracy": test, "validation": validation, "curve": list(curve)}
    return {"hparams": setting, "labels": {label: scored}}


def test_each_label_takes_what_is_best_on_validation():
    a, b, c = ({"device_lr": x} for x in (0.1, 0.2, 0.3))
    tried = cell(
        result(a, "PM", [0.9, 0.9], [0.5, 0.7]),
        result(b, "PM", [0.1, 0.3], [0.7, 0.7]),
        result(c, "PM", [0.9, None], [1.0, None]),  # a seed diverged
    )
    (point,) = points.of([(one(settings=(a, b, c)), tried)], of())
    assert point.chosen == {"PM": b}
    assert points.mean(point, "PM").mean == pytest.approx(0.2)
    assert points.mean(point, "GM") is None
    (only,) = points.of([(one(settings=(a,)), tried)], of())
    assert only.chosen == {"PM": a}
    apart = points.difference(point, only, "PM")
    assert apart.mean == pytest.approx(-0.7)


def test_gm_has_arrived_at_95_percent_of_the_panels_best():
    def curve(*values):
        return [[2 * (i + 1), value] for i, value in enumerate(values)]

    slow = [curve(0.2, 0.5, 0.77), curve(0.1, 0.76, 0.77)]
    fast = [curve(0.76, 0.8, 0.8), curve(0.5, 0.79, 0.8)]
    setting = {"device_lr": LR}

    def own(final, curves):
        return cell(result(setting, "GM", [final] * 2, [0] * 2, curves))

    measured = [
        (one(line="slow"), own(0.77, slow)),
        (one(line="fast"), own(0.8, fast)),
        (one(panel="other"), own(0.1, [[[2, 0.1], [4, 0.1]]] * 2)),
        (one(panel="at the end"), own(0.1, [[[4, 0.1]]] * 2)),
        (one(at=2), own(0.2, [[[2, 0.1], [4, 0.2]]] * 2)),
    ]

    def arrived(study):
        return [p.arrived and p.arrived.mean for p in points.of(measured, study)]

    assert arrived(of()) == [5.0, 3.0, 2.0, None, None]
    # Places that are worlds of their own have targets of their own.
    assert arrived(of()._replace(apart=True)) == [5.0, 3.0, 2.0, None, 4.0]


def test_a_study_gives_the_numbers_of_runs_and_keeps_what_is_done(
    tmp_path, monkeypatch, capsys
):
    grid = tuning(LR, quick=True)[:2]
    lines = (("paper", "permfl", (paper(LR),)), ("tuned", "permfl", grid))
    listed = arms("accuracy", 4, "", lines)
    listed += [Arm("accuracy", "FedAvg", 8, "", "fedavg", ({"device_lr": LR},))]
    curve = Curve("exact", "e", (1, 2), (0.25, 0.5))
    asked = of(*listed, exact=(curve,))._replace(over_rounds=(("accuracy", "exact"),))
    monkeypatch.setitem(studies.STUDIES, "tiny", asked)

    def again():
        with flagsaver.flagsaver():
            given = ["--study=tiny", f"--workdir={tmp_path / 's'}", "--seeds=0,1"]
            values = parsed(*given)
            study.main(["study"])
            del values
        return (tmp_path / "s" / "table.md").read_text()

    table = again()
    assert "[2/2]" in capsys.readouterr().err
    for text in ("| 4 | paper |", "| 4 | tuned |", "| 8 | FedAvg |", "| 2 | 0.5 |"):
        assert text in table
    for name in ("figure.png", "rounds.png"):
        assert (tmp_path / "s" / name).read_bytes().startswith(b"\x89PNG")
    assert again() == table
    assert "[1/" not in capsys.readouterr().err  # nothing is trained twice

    with flagsaver.flagsaver():
        hparams = [f"--hparam={k}={v!r}" for k, v in paper(LR).items()]
        folder = tmp_path / "run"
        parsed(*SMALL.split(), *hparams, "--nolocal_floor", f"--workdir={folder}")
        train.run(config.from_flags(flags.FLAGS))
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    (path,) = (tmp_path / "s" / "cells" / "tiny").glob("*_permfl.json")
    stored = json.loads(path.read_text())
    own = next(r for r in stored["results"] if r["hparams"] == paper(LR))
    for label in ("PM", "TM", "GM"):
        found = own["labels"][label]["accuracy"][0]
        assert found == pytest.approx(last[f"{label}/accuracy"], abs=1e-6)
    assert own["bytes"]["bytes/team_up"] == last["bytes/team_up"]


@pytest.mark.skipif(not machine.maps(), reason="only Linux counts a process's maps")
def test_many_cells_do_not_fill_a_process(monkeypatch):
    # Beyond 65,530 maps XLA ends in a segmentation fault.
    listed = [one(at=n, given=f"--num_rounds={n}") for n in (1, 2, 3, 4)]
    with flagsaver.flagsaver():
        values = parsed()
        plan = cells.plan(of(*listed), False, values)
        jax.clear_caches()
        before = machine.maps()
        monkeypatch.setattr(machine, "_MOST_MAPS", before)
        found = [machine.maps() - before for _ in cells.measure(plan, values, (0,))]
    assert max(found[1:]) < 1.5 * found[0], found


def test_unknown_studies_are_named():
    with flagsaver.flagsaver():
        parsed("--study=nothing")
        with pytest.raises(InputError, match="--study=nothing must be one of auto, "):
            study.main(["study"])


def test_permfl_by_what_its_rounds_depend_on():
    found = permfl(0.1, pull=2.0, ratio=0.5, reach=3.0)
    assert found["server_lr"] * found["team_prox"] == pytest.approx(3.0)
    assert found["team_lr"] * (2.0 + 1.0) == pytest.approx(1.0)


def test_names_stand_in_their_order_on_an_axis():
    assert page._places(["b", "a", "b"], ["a", "b"]) == [1, 0, 1]
    assert page._places([3, 1], [1, 3]) == [3, 1]


def test_a_line_far_below_all_others_leaves_them_the_room():
    lines = {"a": [0.95, 0.94], "b": [0.9, 0.93], "low": [0.5, 0.1]}
    assert page._far_below(lines) == {"low"}
    assert page._far_below({**lines, "low": [0.5, 0.75]}) == set()
    assert page._far_below({"a": [0.9, 0.1], "b": [0.2]}) == set()
    assert page._far_below({}) == set()
