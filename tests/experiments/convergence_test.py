"""Measured rates against the tests' own closed forms, and the binary as a whole."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from absl import flags
from absl.testing import flagsaver
from step_sizes import mixing

from experiments import (
    convergence,
    convergence_report,
    envelope_slopes,
    growing_loops,
    mclr_rates,
    quadratic_cells,
    quadratic_rates,
    reference_optimum,
    straight,
    watch,
)
from permfl_jax import closed_forms, data, quadratics, runner
from permfl_jax.errors import DivergenceError, InputError
from permfl_jax.participation import Sampler

SEEDS = (0, 1, 2)


def test_a_straight_line_is_found_below_the_transient_and_above_the_floor():
    rounds = np.arange(300)
    errors = 5 * 0.9**rounds + 80 * 0.5**rounds + 1e-6
    line = straight.fit(errors)
    assert line.rate == pytest.approx(0.9, rel=2e-3)
    assert errors[line.last - 1] > 30e-6 >= errors[line.last]
    assert straight.floor(errors) == pytest.approx(1e-6)
    whole = np.polyfit(rounds[100:200], np.log(0.93 ** rounds[100:200]), 1)[0]
    assert np.log(straight.slope(0.93**rounds, 100, 200)) == pytest.approx(whole)


def test_what_is_no_line_gives_none():
    assert straight.fit(np.full(100, 0.3)) is None  # never falls
    assert straight.fit(0.01 ** np.arange(50.0)) is None  # over in six rounds
    assert straight.rates([np.full(100, 0.3)]) is None


def test_rounding_bends_no_line():
    # The last six rounds are bent, too few to tell that they have stopped falling.
    errors = np.maximum(0.8 ** np.arange(140.0), 1e-13)
    assert straight.floor(errors) == 0
    line = straight.fit(errors)
    assert line.rate == pytest.approx(0.8, rel=1e-6)


def test_an_interval_needs_seeds_that_differ():
    curves = [0.9 ** np.arange(100.0), 0.8 ** np.arange(100.0)]
    found = straight.rates(curves)
    assert found.mean == pytest.approx(0.85, rel=1e-3)
    assert found.half == pytest.approx(12.706 * 0.05, rel=1e-2)  # t of 1 degree


@pytest.fixture(scope="module")
def small():
    """Three devices in two teams, their optimum, and the oracle's view of them."""
    rng = np.random.default_rng(0)
    curvature = quadratics.spectra(rng, 3, 3, 0.5, 5.0)
    problem = quadratics.draw(rng, (1, 2), curvature)
    eye = np.eye(3)
    turn = [eye - 2 * np.outer(u, u) for u in problem.turn]
    hessian = np.stack(
        [q @ np.diag(h) @ q for q, h in zip(turn, problem.curvature, strict=True)]
    )
    linear = np.einsum("dij,dj->di", hessian, problem.centre)
    f = oracles.Quadratics(
        hessian, linear, problem.team, problem.device_weight, problem.team_weight
    )
    return problem, f


def subject_of(problem, **more):
    devices = quadratics.federation_of(problem)
    return watch.Subject(quadratics.loss, devices, Sampler.of(devices), **more)


def test_distances_are_those_of_a_plain_loop(small):
    problem, f = small
    chosen = quadratic_cells.settings(2, 3)
    x, w, theta = oracles.optimum(f, chosen.device_prox, chosen.team_prox)
    marks = {"optimum": {"server": x, "team": w, "device": theta}}
    starts = np.array([[1.0, 2.0, 3.0], [-4.0, 0.0, 1.0]])
    numbers = [
        watch.Numbers(watch.gains(chosen), marks),
        watch.Numbers(watch.gains(chosen._replace(server_lr=0.1)), marks),
    ]
    found, _ = watch.follow(
        subject_of(problem, keep_models=True), chosen, numbers, starts, (0, 1), 4, 2
    )
    for r, start in enumerate(starts):
        for h, server_lr in enumerate((chosen.server_lr, 0.1)):
            before = start
            for t in range(4):
                gx, gw, gt, _ = oracles.permfl_loop(
                    lambda j, step, point: f.hessian[j] @ point - f.linear[j],
                    before,
                    f.team,
                    **mixing(chosen._replace(server_lr=server_lr)),
                    rounds=1,
                )
                wanted = {
                    "server/to_optimum": np.linalg.norm(gx - x),
                    "team/to_optimum": np.sqrt(((gw - w) ** 2).sum(axis=1).mean()),
                    "device/to_optimum": np.sqrt(((gt - theta) ** 2).sum(1).mean()),
                    "server/step": np.linalg.norm(gx - before),
                }
                for name, value in wanted.items():
                    assert found[name][r, h, t] == pytest.approx(value, rel=1e-10)
                np.testing.assert_allclose(found["server/model"][r, h, t], gx)
                before = gx


def test_watching_changes_nothing(small):
    problem, _ = small
    chosen, subject = quadratic_cells.settings(2, 3), subject_of(problem)
    plain = watch.algorithm_of(subject, chosen)
    start = runner.start(plain, jnp.ones(3), subject.federation)
    *_, (state, _) = runner.run(
        plain, jax.random.key(0), watch.gains(chosen), start, subject.federation, 4
    )
    numbers = [watch.Numbers(watch.gains(chosen), {})]
    _, seen = watch.follow(subject, chosen, numbers, np.ones((1, 3)), (0,), 4)
    np.testing.assert_allclose(seen.server[0, 0], state.server, rtol=1e-14)


def test_runs_that_diverge_are_told(small):
    chosen = quadratic_cells.settings(2, 3, device_lr=9.0)
    numbers = [watch.Numbers(watch.gains(chosen), {})]
    with pytest.raises(DivergenceError, match="no longer finite"):
        watch.follow(subject_of(small[0]), chosen, numbers, np.ones((1, 3)), (0,), 300)


def cell_oracle(cell):
    """Radius and bias by the tests' own matrices."""
    problem = quadratic_rates.problem_of(cell)
    eye = np.eye(quadratic_cells.DIM)
    turn = [eye - 2 * np.outer(u, u) for u in problem.turn]
    hessian = np.stack(
        [q @ np.diag(h) @ q for q, h in zip(turn, problem.curvature, strict=True)]
    )
    f = oracles.Quadratics(
        hessian,
        np.einsum("dij,dj->di", hessian, problem.centre),
        problem.team,
        problem.device_weight,
        problem.team_weight,
    )
    chosen = cell.settings
    matrix, vector = oracles.round_map(f, **mixing(chosen))
    best, _, _ = oracles.optimum(f, chosen.device_prox, chosen.team_prox)
    fixed = np.linalg.solve(eye - matrix, vector)
    return max(abs(np.linalg.eigvals(matrix))), np.linalg.norm(fixed - best)


# Cells whose programs compile quickly, one of each kind.
CELLS = [
    quadratic_cells.Cell("loops", "K=1 L=1", quadratic_cells.settings(1, 1)),
    quadratic_cells.Cell("loops", "K=2 L=4", quadratic_cells.settings(2, 4)),
    quadratic_cells.Cell(
        "beta", "over-relaxed", quadratic_cells.settings(2, 4, server_lr=2.0)
    ),
    quadratic_cells.Cell(
        "aligned", "K=9 L=9", quadratic_cells.settings(9, 9), (1,) * 3, aligned=True
    ),
    quadratic_cells.Cell(
        "participation",
        "2 of 4, 2 of 5",
        quadratic_cells.settings(2, 4),
        teams_per_round=2,
        devices_per_round=2,
    ),
    quadratic_cells.Cell("batch", "B=2", quadratic_cells.settings(2, 4), batch_size=2),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.sweep} {cell.label}")
def test_the_measured_rate_is_the_exact_spectral_radius(cell):
    """Within 5 % of 1 - ρ, in every kind of cell."""
    radius, bias = cell_oracle(cell)
    measured = quadratic_rates.measure(cell, SEEDS)
    row = quadratic_rates.row(measured)
    assert row["predicted_rate"] == pytest.approx(radius, rel=1e-9)
    assert 1 - row["rate"]["mean"] == pytest.approx(1 - radius, rel=0.05)
    assert row["relative_error"] < 0.05
    assert measured.predicted.bias == pytest.approx(bias, abs=1e-9)
    if cell.noisy:
        assert row["floor"]["mean"] > 1.5 * bias  # what is drawn adds to it
        return
    assert row["floor"]["mean"] == pytest.approx(bias, rel=1e-3, abs=1e-8)
    assert row["floor_bound"] >= row["exact_floor"] == measured.predicted.bias
    assert json.loads(json.dumps(row)) == row
    for tier in (*watch.TIERS, "gradient"):
        curve = row["curves"][tier]
        for seen, said in zip(curve["measured"], curve["predicted"], strict=True):
            assert seen == pytest.approx(said, rel=1e-4, abs=1e-12)
    for rate in row["tier_rates"].values():
        assert 1 - rate["mean"] == pytest.approx(1 - radius, rel=0.05)


def test_equal_hessians_attain_the_worst_rate():
    cell = CELLS[3]._replace(settings=quadratic_cells.settings(30, 60))
    found = quadratic_rates.predict(quadratic_rates.problem_of(cell), cell.settings)
    assert found.radius == pytest.approx(found.worst, rel=1e-6)


def test_the_noise_of_batches_leaves_the_rate_alone():
    """It is added to the models, so two runs with the same draws differ as without."""
    rates = [
        quadratic_rates.measure(CELLS[-1]._replace(batch_size=size), SEEDS).errors[
            :, :20
        ]
        for size in (1, 4)
    ]
    np.testing.assert_allclose(*rates, rtol=1e-8)


def test_every_sweep_has_few_cells_and_all():
    for name, sweep in quadratic_cells.SWEEPS.items():
        few, all_ = list(sweep(True)), list(sweep(False))
        assert 1 <= len(few) <= len(all_)
        assert {cell.sweep for cell in all_} == {name}
        assert len({cell.label for cell in all_}) == len(all_)


def test_every_sweep_of_mclr_has_few_cells_and_all(digits):
    for quick in (True, False):
        assert {name for name, _ in mclr_rates.settings(digits, quick)} == set(
            convergence.SWEEPS["mclr"]
        )


def test_where_rounds_are_drawn_no_end_is_promised():
    """What is left is noise; the closed forms are of rounds in which all act."""
    (cell,) = list(quadratic_cells.SWEEPS["participation"](True))[:1]
    assert cell.noisy
    found = quadratic_rates.row(quadratic_rates.measure(cell, SEEDS, 60))
    assert found["exact_floor"] is None
    assert found["floor_bound"] is None


def measured_optimum(chosen):
    cell = quadratic_cells.Cell("rounds", "", chosen)
    problem = quadratic_rates.problem_of(cell)
    return quadratic_rates.predict(problem, chosen).optimum.server


def test_loops_must_grow_with_the_rounds():
    """Fixed K and L fall behind ρ_x^T; in step with T they never do."""
    rows = list(growing_loops.rows(SEEDS, True))
    over = {(row["plan"], row["rounds"]): row["over_pace"]["mean"] for row in rows}
    assert over["fixed", 40] > 10 * over["fixed", 10]
    assert over["as T", 40] < over["as T", 10] < 1
    assert over["as T", 40] < over["as log T", 40] < over["fixed", 40]
    best = measured_optimum(quadratic_cells.settings())
    away = np.linalg.norm(quadratic_rates.starts_of(SEEDS) - best, axis=1).mean()
    for row in rows:  # ρ_x = 1 - 1/6, as docs/science.md says
        assert row["pace"] == pytest.approx((5 / 6) ** row["rounds"] * away)


def test_newton_finds_the_optimum_of_quadratics(small):
    problem, f = small
    chosen = quadratic_cells.settings(2, 3)
    found = reference_optimum.solve(subject_of(problem), jnp.ones(3), chosen)
    wanted = oracles.optimum(f, chosen.device_prox, chosen.team_prox)
    for ours, theirs in zip(found[:3], wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert found.gradient < 1e-10


def test_the_linearised_round_of_quadratics_is_the_round(small):
    problem, f = small
    chosen = quadratic_cells.settings(2, 3)
    matrix, vector = oracles.round_map(f, **mixing(chosen))
    found = reference_optimum.linearise(
        subject_of(problem), jnp.ones(3), chosen, np.zeros(3)
    )
    fixed = np.linalg.solve(np.eye(3) - matrix, vector)
    np.testing.assert_allclose(found.server, fixed, atol=1e-10)
    assert found.radius == pytest.approx(max(abs(np.linalg.eigvals(matrix))))
    x = np.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(found.apply(x), matrix @ x, atol=1e-12)


def test_envelopes_found_by_newton_are_as_steep_as_their_closed_forms():
    """Also where the steepest of the K models is the last that devices get."""
    rng = np.random.default_rng(1)
    problem = quadratics.draw(rng, (3, 2), quadratics.spectra(rng, 5, 3, 0.5, 5.0))
    chosen = quadratic_cells.settings(3, 2)

    def exact(x, team_steps):
        longer = chosen._replace(team_steps=team_steps)
        return closed_forms.gradient_sizes(problem, longer, x)

    rising = 0
    for x in (np.zeros(3), *problem.centre):
        found = envelope_slopes.gradient_sizes(
            subject_of(problem), jnp.ones(3), chosen, x
        )
        np.testing.assert_allclose(found, exact(x, 3), rtol=1e-8)
        rising += exact(x, 2).device < exact(x, 3).device < exact(x, 4).device
    assert rising


def test_the_largest_factor_of_any_matrix():
    rng = np.random.default_rng(0)
    for size in (3, 40):
        matrix = rng.normal(size=(size, size))
        found = reference_optimum.largest_factor(lambda v, m=matrix: m @ v, size)
        assert found == pytest.approx(max(abs(np.linalg.eigvals(matrix))), rel=1e-8)
    # Few distinct values: the method is over after as many steps.
    twice = np.diag([3.0] * 20 + [1.0] * 20)
    assert reference_optimum.largest_factor(lambda v: twice @ v, 40) == pytest.approx(3)


@pytest.fixture(scope="module")
def digits():
    return mclr_rates.problem("digits", data.SourceOptions())


def test_the_optimum_of_mclr_is_stationary(digits):
    """Each tier's condition, with the gradient of a NumPy loop."""
    (_, chosen) = next(mclr_rates.settings(digits, True))
    found = reference_optimum.solve(digits.subject, digits.like, chosen)
    assert found.gradient < 1e-10
    devices = digits.subject.federation
    unravel = jax.flatten_util.ravel_pytree(digits.like)[1]
    team, lam = np.asarray(devices.team), chosen.device_prox
    x, y = (np.asarray(devices.train.pool[name]) for name in "xy")
    for d, theta in enumerate(found.device):
        rows = slice(int(devices.train.start[d]), None)
        rows = slice(rows.start, rows.start + int(devices.train.count[d]))
        layer = unravel(theta)["linear"]
        weight, bias = np.asarray(layer["weight"]), np.asarray(layer["bias"])
        flip = weight.shape[0] != len(bias)
        slope = oracles.mclr_gradient(
            weight.T if flip else weight, bias, x[rows], y[rows]
        )
        slope = {"weight": slope[0].T if flip else slope[0], "bias": slope[1]}
        flat = jax.flatten_util.ravel_pytree({"linear": slope})[0]
        left = flat + mclr_rates.L2 * theta + lam * (theta - found.team[team[d]])
        assert np.linalg.norm(left) < 1e-8
    for i, w in enumerate(found.team):
        mean = found.device[team == i].mean(axis=0)
        left = lam * (w - mean) + chosen.team_prox * (w - found.server)
        assert np.linalg.norm(left) < 1e-8
    np.testing.assert_allclose(found.team.mean(axis=0), found.server, atol=1e-9)


def test_the_measured_rate_of_mclr_is_that_of_the_linearised_round(digits):
    (row,) = mclr_rates.rows(digits, "digits", SEEDS, ("loops",), True)
    assert row["inside"]
    assert row["relative_error"] < 0.01
    # Directions that no picture sees are curved by the penalty alone.
    assert row["radius"] == pytest.approx(row["flat_radius"], abs=1e-5)
    assert row["floor"]["mean"] == pytest.approx(row["exact_floor"], rel=1e-6)
    assert row["reference_gradient"] < 1e-10
    low, high = row["curvature"]["low"], row["curvature"]["high"]
    lam, gamma = mclr_rates.PULLS.values()
    used = row["settings"]
    left_by_team = 1 - used["team_lr"] * (1 / (1 / low + 1 / lam) + gamma)
    left_by_device = 1 - used["device_lr"] * (low + lam)
    slope = left_by_team ** used["team_steps"] * row["slopes"]["team"]
    slope += left_by_device ** used["device_steps"] * row["slopes"]["device"]
    bound = slope * (1 / low + 1 / lam + 1 / gamma)
    assert high > low > 0
    assert row["floor_bound"] == pytest.approx(bound)
    assert bound >= row["exact_floor"] > 0


def test_slopes_are_read_where_the_compiled_round_goes(digits):
    (_, chosen) = next(mclr_rates.settings(digits, True))
    subject, like = digits.subject, digits.like
    local = reference_optimum.linearise(
        subject, like, chosen, np.zeros(sum(x.size for x in jax.tree.leaves(like)))
    )
    seen = envelope_slopes.path(
        reference_optimum.losses_of(subject, like),
        subject.federation.team,
        jnp.asarray(mclr_rates.TEAMS, float),
        chosen,
        jnp.asarray(local.server),
    )
    assert len(seen) == chosen.team_steps + 1
    np.testing.assert_allclose(seen[-1], local.team, atol=1e-12)


def run(tmp_path, *args):
    with flagsaver.flagsaver():
        flags.FLAGS(["convergence", f"--workdir={tmp_path / 'run'}", *args])
        convergence.main(["convergence"])


def test_the_program_leaves_a_table_a_figure_and_numbers(tmp_path, capsys):
    args = ("--sweep=aligned", "--quick", "--seeds=3,4")
    run(tmp_path, *args)
    printed = capsys.readouterr().out
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"table.md", "figure.png", "summary.json", "cells.jsonl"} <= names
    table = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert table in printed
    command = "python -m experiments.convergence --problem=quadratic --sweep=aligned"
    assert f"`{command} --seeds=3,4 --quick`" in table
    assert (tmp_path / "run" / "figure.png").read_bytes()[1:4] == b"PNG"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [row["cell"] for row in summary["cells"]] == ["K=1 L=1", "K=20 L=40"]
    run(tmp_path, *args)
    again = capsys.readouterr().out
    assert "already holds these cells" in again
    assert table in again


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--problem=cubic"], "--problem=cubic must be one of quadratic, mclr, non"),
        (["--sweep=network"], "--sweep=network is unknown for --problem=quadratic; "),
        (["--seeds=a"], "--seeds"),
        (["--sweep="], "--sweep= names nothing to vary; choose from loops, "),
        (["--sweep=beta,beta"], "--sweep=beta,beta names beta twice"),
        (
            ["--problem=mclr", "--dataset=synthetic"],
            "--dataset=synthetic cannot be used for --problem=mclr; choose from digits",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path, args, sentence):
    with pytest.raises(InputError) as caught:
        run(tmp_path, *args)
    assert sentence in str(caught.value)


def test_the_table_marks_bounds_that_do_not_hold():
    spread = {"mean": 1.0, "half": None, "count": 1}
    row = dict.fromkeys(
        ("mean_square", "bound", "error_square", "largest_share_of_bound"), spread
    )
    row |= {"sweep": "loops", "cell": "a", "rounds": 3, "holds": False}
    assert "| NO |" in convergence_report.table([row], "command")
    assert "| yes |" in convergence_report.table([row | {"holds": True}], "command")
