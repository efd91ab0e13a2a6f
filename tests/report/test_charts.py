"""Geometry of the diagrams, held against values worked out by hand."""

import re

import numpy as np
import pytest

from vireid_fast.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    histogram_chart,
    line_chart,
    path,
)
from vireid_fast.report.content import Curve, FeatureMap, Histogram, TrainingCurve
from vireid_fast.report.feature_map import drawn_map
from vireid_fast.report.templating import TEMPLATES
from vireid_fast.report.training import training_stages


def _points(drawn: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", drawn)]


def _chart(*curves: Curve, **options):
    options = {"x_title": "x", "y_title": "y", "table_at": (), **options}
    return line_chart("title", "caption", curves, **options)


@pytest.mark.parametrize(
    ("low", "high", "whole", "labels"),
    [
        (0, 100, False, ["0", "20", "40", "60", "80", "100"]),
        (1, 50, True, ["1", "10", "20", "30", "40", "50"]),
        (1, 2, True, ["1", "2"]),
        (1, 10, True, ["1", "2", "4", "6", "8", "10"]),
        (-3.7, 1.4, False, ["−3", "−2", "−1", "0", "1"]),
        (0.012, 0.019, False, ["0.012", "0.014", "0.016", "0.018"]),
        (0, 3e6, False, ["0", "5.0e5", "1.0e6", "1.5e6", "2.0e6", "2.5e6", "3.0e6"]),
    ],
)
def test_ticks_are_round(low, high, whole, labels):
    ticks = Axis(low, high, 0, 100).ticks(whole=whole)
    assert [tick.label for tick in ticks] == labels
    assert all(0 <= tick.place <= 100 for tick in ticks)


def test_a_line_goes_through_its_points():
    chart = _chart(Curve("a", np.array([0, 5, 10]), np.array([0, 100, 50])),
                   x_range=(0, 10), y_range=(0, 100))  # fmt: skip
    expected = [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, TOP), (RIGHT, (TOP + BOTTOM) / 2)]
    assert _points(chart.lines[0].path) == expected
    # A circle begins left of its centre.
    assert _points(chart.lines[0].marks) == [(x - 3.5, y) for x, y in expected]


def test_a_gap_stays_a_gap():
    assert path(np.array([[0, 1], [np.nan, 2], [3, 4], [5, 6], [7, np.inf]])) == "M0 1M3 4L5 6"
    assert path(np.array([[-0.01, 0.04]])) == "M0 0"
    assert path(np.full((2, 2), np.nan)) == ""


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [], [1e300, -1e300], [np.nan]])
def test_any_values_have_an_axis(values):
    chart = _chart(Curve("a", np.arange(len(values)), np.array(values)))
    assert chart.y_ticks and all(TOP <= tick.place <= BOTTOM for tick in chart.y_ticks)


def test_long_curves_are_thinned_and_keep_their_ends():
    chart = _chart(Curve("a", np.arange(100_000), np.arange(100_000) % 7))
    points = _points(chart.lines[0].path)
    assert len(points) == 400 and not chart.lines[0].marks
    assert (points[0][0], points[-1][0]) == (LEFT, RIGHT)


def test_the_table_holds_values_and_dashes():
    chart = _chart(Curve("a", np.array([1, 3]), np.array([10, 20])),
                   Curve("b", np.array([2, 4]), np.array([np.nan, 1])),
                   table_at=(1, 2, 4))  # fmt: skip
    assert chart.columns == ("x", "a", "b")
    assert chart.rows == (("1", "10.0", "–"), ("2", "15.0", "–"), ("4", "–", "1.00"))


def test_lines_differ_in_style():
    styles = [line.style for line in _chart(*[Curve(str(i), [0], [0]) for i in range(13)]).lines]
    assert styles == [*range(12), 0]
    # Each has its own pair of colour and dashes in the style sheet.
    sheet = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    rules = re.findall(r"^\.s\d+ \{ (--colour: .*) \}$", sheet, re.MULTILINE)
    assert len(rules) == len(set(rules)) == 12


def test_marks_differ_in_shape():
    lines = _chart(*[Curve(str(i), [0], [i]) for i in range(4)]).lines
    assert len({re.sub(r"[-\d. ]+", "", line.marks) for line in lines}) == 4
    assert all(line.sample for line in lines)


def test_a_histogram_has_bars_overlap_and_quantiles():
    histogram = Histogram("across", np.array([0.0, 1, 2, 3]), np.array([0.5, 0.5, 0]),
                          np.array([0, 0.25, 0.75]), (1000, 2000), "A sample.")  # fmt: skip
    chart = histogram_chart(histogram, "cosine")
    assert chart.x_title == "distance (cosine)"
    assert chart.caption == "25 % of the two areas overlap; the less, the better. A sample."
    same, different = chart.lines
    places = [LEFT, LEFT + (RIGHT - LEFT) / 3, LEFT + 2 * (RIGHT - LEFT) / 3, RIGHT]
    assert [x for x, _ in _points(same.path)] == pytest.approx(
        [places[0], places[1], places[1], places[2], places[2], places[3]], abs=0.05
    )
    assert same.area.endswith("Z") and not different.area
    # Linear within a bin: half of [0, 1] and [1, 2]; two thirds into the last bin less a third.
    assert chart.rows == (
        ("pairs", "1,000", "2,000"), ("10 % quantile distance", "0.200", "1.40"),
        ("median distance", "1.00", "2.33"), ("90 % quantile distance", "1.80", "2.87"),
    )  # fmt: skip


def test_a_map_keeps_proportions_and_shapes_tell_the_modality():
    content = FeatureMap("PCA", np.array([[0.0, 0], [4, 0], [4, 2], [np.nan, 0]]),
                         np.array([7, 9, 9, 7]), np.array([0, 1, -1, 0]),
                         np.array([1, 3, -1, 1]))  # fmt: skip
    drawn = drawn_map(content)
    assert drawn.identities == ((7, {"visible": 1}), (9, {"infrared": 1, "unknown": 1}))
    assert list(drawn.modalities) == ["visible", "infrared", "unknown"] and drawn.left_out == 1
    assert [point.camera for point in drawn.points] == ["1", "3", ""]
    assert ["z" in point.path for point in drawn.points] == [False, True, True]
    circle, triangle, square = (_points(point.path)[0] for point in drawn.points)
    # Marks begin left of, above, and left above of their centre.
    left, right, upper = circle[0] + 4.5, triangle[0], square[1] + 4.5
    assert right - left == pytest.approx(2 * (circle[1] - upper), abs=0.3)
    assert 0 < upper < circle[1] < drawn.height and 0 < left < right < drawn.width


def test_training_is_ordered_by_stage_and_by_use():
    stages = training_stages([
        TrainingCurve("b", "val_mAP", (1, 2), (0.1, 0.2)),
        TrainingCurve("b", "loss", (1, 2), (3.0, float("nan"))),
        TrainingCurve("b", "val_other", (1, 2), (3.0, 2.0)),
        TrainingCurve("a", "keep", (1,), (0.5,)),
    ])  # fmt: skip
    assert [stage.name for stage in stages] == ["b", "a"]
    assert [chart.title for chart in stages[0].main] == ["Loss", "Validation"]
    assert [chart.title for chart in stages[0].terms] == ["val_other"]
    assert stages[0].main[1].rows == (("1", "10.00"), ("2", "20.00"))
    assert stages[1].main == () and stages[1].terms[0].title == "keep"
