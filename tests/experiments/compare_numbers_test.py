"""Intervals, choices, tables: the numbers of a comparison against closed forms."""

import csv
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from experiments import intervals
from experiments.contests import cells, grids, published, scores, tables
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.errors import InputError

VALUES = [0.9, 0.85, 0.95, 0.7, 0.8]


def test_an_interval_is_that_of_scipy():
    found = intervals.interval(VALUES)
    low, high = stats.t.interval(
        0.95, len(VALUES) - 1, loc=np.mean(VALUES), scale=stats.sem(VALUES)
    )
    np.testing.assert_allclose(
        [found.mean - found.half, found.mean + found.half], [low, high], rtol=1e-12
    )


def test_an_interval_of_two_has_a_closed_form():
    """Student's t with one degree of freedom is Cauchy: tan(0.475 π)."""
    found = intervals.interval([0.0, 1.0])
    assert found.mean == 0.5
    assert found.half == pytest.approx(math.tan(0.475 * math.pi) / 2, rel=1e-9)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert intervals.interval([0.3]) == (0.3, None, 1)
    assert intervals.interval([None, 0.3]) == (0.3, None, 1)
    assert intervals.interval([None, None]) is None
    assert intervals.interval([]) is None


def test_intervals_cover_the_truth_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(2.0, 3.0, (4000, 5))
    hits = [abs(f.mean - 2.0) <= f.half for f in map(intervals.interval, draws)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_pairs_go_by_seed():
    ours, base = np.array(VALUES), np.array([0.8, 0.77, 0.84, 0.61, 0.69])
    found = intervals.paired(ours, base)
    order = [3, 0, 4, 2, 1]
    same = intervals.paired(ours[order], base[order])
    np.testing.assert_allclose(same, found, rtol=1e-12)
    torn = intervals.paired(ours[order], base)
    assert torn.mean == pytest.approx(found.mean)
    assert torn.half > 3 * found.half
    # What all seeds of both methods share cancels.
    shift = np.array([5.0, -3.0, 2.0, 0.0, 1.0])
    moved = intervals.paired(ours + shift, base + shift)
    np.testing.assert_allclose(moved, found, rtol=1e-9)


def test_a_diverged_seed_has_no_partner():
    found = intervals.paired([1.0, None, 3.0], [0.5, 0.5, None])
    assert found == (0.5, None, 1)


def member(number, seed, setting, **row):
    return {"member": number, "seed": seed, "hparams": setting, **row}


def test_each_model_has_a_setting_of_its_own_and_divergence_loses():
    a, b, c = {"lr": 1.0}, {"lr": 2.0}, {"lr": 3.0}
    rows = [
        member(0, 7, a, **{"PM/validation/accuracy": 0.9, "GM/validation/accuracy": 0}),
        member(1, 7, b, **{"PM/validation/accuracy": 0.1, "GM/validation/accuracy": 1}),
        member(2, 7, c, diverged="Round 1"),
    ]
    tuned = scores.tuning(rows, [a, b, c])
    assert "diverged" in tuned[2]
    assert scores.chosen(tuned) == {"PM": 0, "GM": 1}


def test_a_setting_is_judged_by_the_last_round_of_all_its_seeds():
    a, b = {"lr": 1.0}, {"lr": 2.0}
    name = "PM_adapted/validation/accuracy"
    rows = [
        member(number, seed, setting, **{name: value})
        for number, seed, setting, early, late in [
            (0, 7, a, 0.99, 0.2),
            (1, 7, b, 0.1, 0.3),
            (2, 8, a, 0.99, 0.4),
            (3, 8, b, 0.1, 0.5),
        ]
        for value in (early, late)
    ]
    tuned = scores.tuning(rows, [a, b])
    assert [result["validation"]["PM"] for result in tuned] == [
        pytest.approx(0.3),
        pytest.approx(0.4),
    ]
    assert scores.chosen(tuned) == {"PM": 1}
    rows[-1] = member(3, 8, b, diverged="Round 2")  # of one seed: it loses
    assert scores.chosen(scores.tuning(rows, [a, b])) == {"PM": 0}


def test_the_last_round_and_the_peak_are_told_apart_for_each_model():
    def row(seed, round_, pm, gm):
        found = {"PM/accuracy": pm, "GM/accuracy": gm, "round": round_}
        return member(seed, seed, {}, **found)

    rows = [row(0, 1, 0.9, 0.1), row(1, 1, 0.5, 0.6)]
    rows += [row(0, 2, 0.8, 0.2), row(1, 2, 0.7, 0.3)]
    assert scores.last_round(rows, "PM", [0, 1])["accuracy"] == [0.8, 0.7]
    assert scores.peak(rows, "PM", [0, 1]) == {
        "best_accuracy": [0.9, 0.7],
        "best_round": [1, 2],
    }
    assert scores.peak(rows, "GM", [1])["best_round"] == [1]
    rows.append(member(1, 1, {}, round=3, diverged="Round 3"))
    found = scores.last_round(rows, "PM", [0, 1])
    assert found["accuracy"] == [0.8, None]
    assert found["diverged"] == {"1": "Round 3"}
    assert scores.peak(rows, "PM", [0, 1])["best_accuracy"] == [0.9, None]


@pytest.mark.parametrize("method", ALGORITHMS)
def test_every_method_is_tuned_with_the_same_budget(method):
    for lr in (1e-3, 0.05, 5.0):
        settings = grids.grid(method, lr)
        assert len(settings) == grids.BUDGET
        assert len({str(sorted(s.items())) for s in settings}) == grids.BUDGET
        assert all(s.keys() == settings[0].keys() for s in settings)
        for setting in settings:
            made = grids.checked(method, (), setting)
            assert all(getattr(made, name) == value for name, value in setting.items())


def test_permfl_takes_safe_team_and_server_steps():
    for s in grids.grid("permfl", 0.05):
        assert s["team_lr"] * (s["device_prox"] + s["team_prox"]) == pytest.approx(1)
        assert s["server_lr"] * s["team_prox"] == pytest.approx(1)


def test_edges_are_told_where_there_are_three_values():
    settings = tuple({"a": a, "b": b} for a in (1.0, 2.0, 3.0) for b in (5.0, 6.0))
    assert grids.on_edge(settings, {"a": 1.0, "b": 5.0}) == ["a"]
    assert grids.on_edge(settings, {"a": 2.0, "b": 6.0}) == []
    assert grids.on_edge(settings, {"a": 3.0, "b": 6.0}) == ["a"]


def test_what_is_tuned_cannot_be_set():
    with pytest.raises(InputError, match=r"--hparam=permfl.device_lr=1 sets what"):
        grids.grid("permfl", 0.05, ("device_lr=1",))
    with pytest.raises(InputError, match="has no grid"):
        grids.grid("unheard_of", 0.05)


def column(dataset="mnist", model="mclr", formation=None):
    flags = {"dataset": dataset, "model": model, "team_formation": formation}
    return SimpleNamespace(name="c", config=SimpleNamespace(**flags))


PUBLISHED = [
    (("mnist", "mclr", None), "permfl", "PM", 96.87),
    (("fashion_mnist", "mclr", "random"), "permfl", "GM", 83.71),
    (("synthetic", "dnn", None), "permfl", "PM", 87.89),
    (("emnist_digits", "cnn", None), "hsgd", "GM", 96.03),
    (("mnist", "cnn", None), "pfedbayes", "PM", None),
    (("mnist", "dnn", None), "permfl", "PM", None),
    (("digits", "mclr", None), "permfl", "PM", None),
    (("mnist", "mclr", None), "permfl", "TM", None),
    (("mnist", "mclr", "worst_case"), "permfl", "GM", 80.48),
    (("emnist_digits", "cnn", "average_case"), "permfl", "GM", 87.43),
    (("mnist", "mclr", "worst_case"), "hsgd", "GM", None),
    (("cifar100", "mclr", None), "permfl", "PM", 66.95),
    (("cifar100", "cnn", None), "permfl", "PM", None),
]


@pytest.mark.parametrize(("where", "method", "label", "number"), PUBLISHED)
def test_published_numbers_stand_in_their_own_cells(where, method, label, number):
    assert published.published(column(*where).config, method, label) == number


def cell(**labels):
    accuracies = {
        label: {
            "hparams": {"device_lr": 0.1},
            "source": label,
            "diverged": {},
            "accuracy": values,
            "device_mean_accuracy": values,
            "worst_decile_accuracy": values,
            "traffic": {
                **{"device_up": 4.0, "device_down": 4.0},
                **{"team_up": 1.0, "team_down": 1.0},
            },
        }
        for label, values in labels.items()
    }
    return {
        "labels": accuracies,
        "seconds": {"tuning": 1.0, "final": 2.0},
        "majority_accuracy": 0.5,
        "parameters": 10,
        "model_bytes": 40,
        "team_steps": 2,
        "gradients_per_round": 8,
        "rounds": 3,
        "commit": "abc",
        "machine": "m",
    }


def test_a_table_has_means_differences_and_bytes():
    permfl, other = cell(PM=[0.8, 0.9], GM=[0.5, 0.6]), cell(PM=[0.82, 0.9])
    found = tables.rows(column(), {"permfl": permfl, "ditto": other, "pooled": other})
    by_method = {row["method"]: row for row in found}
    assert list(by_method) == ["majority", "permfl", "ditto", "pooled"]
    assert by_method["majority"]["PM_mean"] == 50
    ditto = by_method["ditto"]
    assert ditto["PM_minus_permfl_mean"] == pytest.approx(1.0)
    expected = 100 * intervals.interval([0.02, 0.0]).half
    assert ditto["PM_minus_permfl_interval"] == pytest.approx(expected)
    assert ditto["GM_mean"] is None
    assert by_method["permfl"]["PM_minus_permfl_mean"] is None
    assert ditto["device_up_bytes"] == 4 * 40
    assert ditto["bytes_in_all"] == (4 + 4 + 1 + 1) * 40 * 3
    text = tables.as_markdown(found, "fair")
    assert "| ditto | 86.00 ± " in text
    assert "pooled (ceiling)" in text
    assert "nan" not in text.lower()


def test_one_seed_and_divergence_are_told_in_words():
    lone = cell(PM=[0.8])
    found = tables.rows(column(), {"permfl": lone})
    assert tables.shown(found[1], "PM") == "80.00"
    broken = cell(PM=[0.8, None, 0.8])
    broken["labels"]["PM"]["diverged"] = {"1": "Round 2 diverged"}
    gone = cell() | {"all_diverged": "Round 1 diverged"}
    text = tables.as_markdown(
        tables.rows(column(), {"permfl": broken, "ditto": gone}), "fair"
    )
    assert "80.00 ± 0.00 (1 diverged)" in text
    assert "| ditto | diverged |" in text
    assert "nan" not in text.lower()


def test_csv_and_json_say_the_same():
    found = tables.rows(column(), {"permfl": cell(PM=[1 / 3, 0.9], TM=[0.1, 0.2])})
    there = json.loads(json.dumps(found))
    read = list(csv.DictReader(io.StringIO(tables.as_csv(found))))
    assert len(read) == len(there) == 2
    for text, row in zip(read, there, strict=True):
        assert text.keys() == row.keys()
        for name, value in row.items():
            if isinstance(value, int | float):
                assert float(text[name]) == value
            else:
                assert text[name] == (value or "")


def test_a_cell_is_written_whole_and_others_are_refused(tmp_path):
    store = cells.Store(tmp_path)
    assert store.read("c", "permfl", {"seeds": [0]}) is None
    store.write("c", "permfl", {"identity": {"seeds": [0]}, "labels": {}})
    assert store.read("c", "permfl", {"seeds": [0]})["labels"] == {}
    assert [p.name for p in (tmp_path / "cells" / "c").iterdir()] == ["permfl.json"]
    with pytest.raises(InputError, match=r"other settings \(differing: seeds\)"):
        store.read("c", "permfl", {"seeds": [1]})
    for damaged in ("{", '{"identity": 5}', "[]"):
        (tmp_path / "cells" / "c" / "permfl.json").write_text(damaged, "utf-8")
        with pytest.raises(InputError, match="is damaged"):
            store.read("c", "permfl", {"seeds": [0]})


@pytest.mark.parametrize("lr", [0.005, 0.05, 5.0, 20.0])
@pytest.mark.parametrize("method", list(ALGORITHMS))
def test_pulls_follow_the_step_sizes(method, lr):
    """A pull of more than 2 over the step size is no descent, whatever the data."""
    for setting in grids.grid(method, lr):
        for size in ("device_lr", "personal_lr"):
            assert setting.get(size, 0) * setting.get("device_prox", 0) < 1
