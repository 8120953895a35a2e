"""The pruners on recorded, full curves of real trials: what they save, and what they lose."""

from statistics import mean

import pytest

from sweeper.engines.replay import read_curves
from tests.benchmarks.pruning import CURVES, pruners, sweeps


@pytest.fixture(scope="module")
def curves():
    return read_curves(CURVES)


def test_without_pruning_nothing_is_saved_and_nothing_lost(curves):
    played = sweeps(curves, pruners(curves)["none"], 10)
    assert {(p.saved, p.pruned, p.regret) for p in played} == {(0.0, 0, 0.0)}


def test_the_median_pruner_saves_time_in_sweeps_of_eight_and_loses_less_than_one_measurement_errs(curves):
    played = sweeps(curves, pruners(curves)["median"], 50)
    assert mean(p.pruned for p in played) >= 1
    assert mean(p.saved for p in played) > 0.1
    assert mean(p.regret for p in played) < mean(curve.error for curve in curves)


def test_optunas_own_median_pruner_saves_less(curves):
    ours, theirs = (sweeps(curves, pruners(curves)[name], 50) for name in ("median", "Optuna's median"))
    assert mean(p.saved for p in ours) > 1.5 * mean(p.saved for p in theirs)
