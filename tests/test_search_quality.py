"""The instrument that compares searches, on the recorded curves of the small model."""

import pytest

from sweeper.engines.replay import read_curves
from tests.benchmarks.search_quality import CURVES, METHODS, RANDOM, interval, play, timed_alike


@pytest.fixture(scope="module")
def curves():
    return timed_alike(read_curves(CURVES))


def test_trials_of_one_batch_size_take_equally_long(curves):
    seconds = {(curve.settings["batch_size"], curve.seconds) for curve in curves}
    assert len(seconds) == len({size for size, _ in seconds}) > 1


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("gp")])
def test_a_sweep_finds_what_is_among_the_curves_in_the_time_that_it_has(curves, method):
    top = max(value for curve in curves for _, value in curve.reports[1:])
    found = play(method, curves, 4, seed=1)
    assert found == play(method, curves, 4, seed=1)
    assert 0 < found.best <= top
    assert found.trials >= 3
    assert play(method, curves, 12, seed=1).best >= found.best


def test_pruning_begins_more_trials_in_the_same_time(curves):
    counts = [play(name, curves, 12, seed=2).trials for name in (RANDOM, "random, median")]
    assert counts[0] < counts[1]


def test_the_interval_is_students():
    assert interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-3))
