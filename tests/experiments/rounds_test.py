"""Accuracy over rounds: what is drawn, and how far GM is predicted to go."""

import pytest
from matplotlib.figure import Figure

from experiments import report_svg
from experiments.studies import points, rounds
from experiments.studies.study import Arm, Curve, Study


def arm(at, line="measured", panel="β"):
    return Arm(panel, line, at, "", "permfl", ({"server_lr": float(at)},))


def cell(at, *curves):
    """One that has a GM alone."""
    scored = {
        "accuracy": [curve[-1][1] for curve in curves],
        "validation": [0.5] * len(curves),
        "curve": list(curves),
    }
    return {
        "results": [{"hparams": {"server_lr": float(at)}, "labels": {"GM": scored}}]
    }


def asked(over_rounds=(("β", "gain, β"),)):
    axes = {"β": ("β", "accuracy"), "gain, β": ("β", "way")}
    axes["share"] = ("%", "accuracy")
    return Study("?", "", "", lambda _: (), lambda _: (), axes, over_rounds=over_rounds)


def found(*measured):
    return points.of(list(measured), asked())


def drawn(monkeypatch, study, some, curves):
    """The axes of the picture."""
    figure = Figure()
    real = report_svg.drawing

    def kept(name, title, draw, size):
        draw(figure)
        return real(name, title, draw, size)

    monkeypatch.setattr(report_svg, "drawing", kept)
    image = rounds.picture(study, some, curves, "a command")
    assert image.startswith(b"\x89PNG")
    return figure.axes


def test_a_step_is_the_mean_over_the_seeds_that_reached_it():
    """Rounds of which no seed tells anything are no steps."""
    curves = ([[1, 0.2], [2, 0.4], [3, None]], [[1, 0.4], [2, None], [3, None]])
    (point,) = found((arm(1), cell(1, *curves)))
    first, second = rounds.steps(point, "GM")
    assert (first.round, second.round) == (1, 2)
    assert first.found.mean == pytest.approx(0.3)
    assert first.found.half == pytest.approx(12.706 * 0.1, rel=1e-3)  # t, 1 degree
    assert second.found.mean == 0.4
    assert second.found.half is None
    assert rounds.steps(point, "PM") == []


def test_the_predicted_way_is_that_of_a_loop():
    for gain in (0.02, 0.7, 1.4):
        gone, wanted = 0.0, [0.0]
        for _ in range(6):
            gone += gain * (1 - gone)
            wanted.append(gone)
        assert rounds.way(gain, range(7)) == pytest.approx(wanted)


def test_a_row_has_a_line_for_each_place_beside_its_prediction(monkeypatch):
    some = found(
        (arm(0.5), cell(0.5, [[2, 0.3], [4, 0.5]])),
        (arm(2), cell(2, [[2, 0.6], [4, 0.8]])),
        (arm(9), cell(9, [[2, 0.1], [4, 0.1]])),
        (arm(1, panel="share"), cell(1, [[2, 0.3]])),
    )
    gains = (
        Curve("gain, β", "h = 1", (0.5, 2), (0.1, 0.4)),
        Curve("gain, β", "h = 0.1", (0.5, 2), (0.01, 0.04)),
        Curve("gain, γ", "h = 1", (0.5,), (0.9,)),
    )
    predicted, pm, _, gm = drawn(monkeypatch, asked(), some, gains)  # "share" is not
    assert not pm.lines
    assert [line.get_label() for line in gm.lines] == ["0.5", "2", "9"]
    assert list(gm.lines[1].get_xdata()) == [2, 4]
    assert list(gm.lines[1].get_ydata()) == pytest.approx([60, 80])
    assert gm.get_legend().get_title().get_text() == "β"
    # Nothing is known of 9; both curvatures of a place have its colour.
    *first, grey, third, fourth, _ = predicted.lines
    assert [line.get_color() for line in (*first, third, fourth)] == [
        gm.lines[n].get_color() for n in (0, 1, 0, 1)
    ]
    assert grey.get_label() == "h = 1"
    assert len({line.get_linestyle() for line in (grey, third)}) == 2
    assert list(predicted.lines[1].get_ydata()) == pytest.approx(
        rounds.way(0.4, range(5))
    )


def test_a_band_is_the_interval_and_stays_among_accuracies(monkeypatch):
    curves = [[1, 0.2], [2, 0.9]], [[1, 0.3], [2, 0.9]]
    some = found((arm(1), cell(1, *curves)))
    *_, gm = drawn(monkeypatch, asked((("β", ""),)), some, ())
    (band,) = gm.collections
    edge = band.get_paths()[0].vertices
    (low, high), (mean,) = (sorted(set(edge[edge[:, 0] == n, 1])) for n in (1, 2))
    half = 12.706 * 5  # t of 1 degree times the deviation of the mean, in points
    assert low == 0 > 25 - half
    assert high == pytest.approx(25 + half, rel=1e-4)
    assert mean == pytest.approx(90)


def test_lines_of_a_panel_have_rows_of_their_own(monkeypatch):
    some = found(
        *((arm(1, line, "share"), cell(1, [[2, 0.3]])) for line in ("paper", "auto"))
    )
    axes = drawn(monkeypatch, asked((("share", ""),)), some, ())
    assert [a.get_title() for a in axes if a.get_visible()] == [
        *["share, paper"] * 3,
        *["share, auto"] * 3,
    ]
