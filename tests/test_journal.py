"""metrics.jsonl: every measurement, also after a kill in the middle of a line."""

import math

from sweeper.events import Measurement
from sweeper.journal import Journal, measurements
from sweeper.layout import Layout


def point(examples: int, loss: float = 1.0) -> Measurement:
    return Measurement(3, 1, 1700000000.5, examples, {"train_loss": loss}, None)


def test_what_is_written_is_read_back(tmp_path):
    layout = Layout(tmp_path, "s")
    points = [point(8), point(16, 0.5)]
    for p in points:
        Journal(layout).measured(p)
    assert list(measurements(layout.metrics(3))) == points


def test_a_torn_line_costs_only_itself(tmp_path):
    layout = Layout(tmp_path, "s")
    Journal(layout).measured(point(8))
    with layout.metrics(3).open("a") as file:
        file.write('{"trial": 3, "attem')
    Journal(layout).measured(point(24))
    assert [p.examples for p in measurements(layout.metrics(3))] == [8, 24]


def test_values_that_are_not_finite_survive_as_nan(tmp_path):
    layout = Layout(tmp_path, "s")
    Journal(layout).measured(point(8, math.inf))
    (back,) = measurements(layout.metrics(3))
    assert math.isnan(back.metrics["train_loss"])


def test_no_file_is_no_measurement(tmp_path):
    assert list(measurements(tmp_path / "metrics.jsonl")) == []
