"""Charts as trees: labels that stay text, names at the ends of lines that don't cover each other."""

from itertools import pairwise

import pytest

from sweeper.report.drawing import PALETTE, Drawing, label, spread
from tests.pages import HOSTILE


def test_a_label_is_shown_letter_by_letter():
    assert label("<b>bold</b> & more") == "&lt;b&gt;bold&lt;/b&gt; &amp; more"
    shown = label(HOSTILE, 500)
    assert "<" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert len(label("word " * 100)) == 40


def test_what_is_far_apart_stays_where_it_is():
    assert spread([3.0, 0.0, 10.0], 1.0) == [3.0, 0.0, 10.0]


@pytest.mark.parametrize("places", [[1.0, 1.0], [0.0, 0.5, 0.6, 5.0], [2.0, 1.9, 1.8, 1.7], []])
def test_what_is_close_is_moved_apart_and_keeps_its_order(places):
    moved = spread(places, 1.0)
    ordered = sorted(moved)
    assert all(b - a >= 1 - 1e-6 for a, b in pairwise(ordered))
    order = sorted(range(len(places)), key=places.__getitem__)
    assert [moved[i] for i in order] == ordered


def test_names_at_the_ends_are_inside_the_chart_and_apart():
    drawing = Drawing(height=400)
    drawing.add(x=[0, 1], y=[0.2, 0.3], error_y={"array": [0.0, 0.1]})
    for y in (0.3, 0.3, 0.1):
        drawing.name_end(y, "a line", "best")
    chart = drawing.chart("a", "A", "said")
    low, high = chart.figure["layout"]["yaxis"]["range"]
    assert low < 0.1
    assert high > 0.4
    places = sorted(note["y"] for note in chart.figure["layout"]["annotations"])
    assert low < places[0] < places[1] < places[2] < high
    assert chart.says == "said."


def test_a_trial_that_diverged_does_not_press_the_others_flat():
    drawing = Drawing()
    drawing.add(x=list(range(9)), y=[2.0, 2.1, 2.2, 2.3, 2.1, 2.2, 2.4, 900.0, None])
    drawing.name_end(2.0, "best", "best")
    low, high = drawing.chart("a", "A", "said").figure["layout"]["yaxis"]["range"]
    assert 1.9 < low < 2.0
    assert 2.4 < high < 2.5


def test_what_is_named_is_always_inside():
    drawing = Drawing()
    drawing.add(x=list(range(8)), y=[2.0, 2.1, 2.2, 2.3, 2.1, 2.2, 2.4, 900.0])
    drawing.name_end(900.0, "defaults", "default")
    assert drawing.chart("a", "A", "said").figure["layout"]["yaxis"]["range"][1] > 900


def test_a_flat_line_has_room_around_it():
    drawing = Drawing()
    drawing.add(x=[0, 1], y=[0.5, 0.5])
    drawing.name_end(0.5, "best", "best")
    assert drawing.chart("a", "A", "said").figure["layout"]["yaxis"]["range"] == [0.25, 0.75]


def test_nothing_drawn_is_no_chart():
    assert Drawing("x", "y").chart("empty", "Empty", "nothing") is None


def test_every_colour_has_a_counterpart_that_can_be_told_from_the_others():
    lights, darks = zip(*PALETTE.values(), strict=True)
    assert len(set(lights)) == len(set(darks)) == len(PALETTE)
