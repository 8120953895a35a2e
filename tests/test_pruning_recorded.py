"""The pruners on recorded, full curves of real trials: what they save, and what they lose."""

import random
from statistics import mean

import optuna
import pytest

from sweeper.config import PrunerConfig
from sweeper.engines.replay import read_curves
from tests.benchmarks.pruning import CURVES, play, sweeps

MEDIAN = PrunerConfig("median", min_peers=3)


@pytest.fixture(scope="module")
def curves():
    return read_curves(CURVES)


def test_without_pruning_nothing_is_saved_and_nothing_lost(curves):
    played = sweeps(curves, PrunerConfig("none"), 10)
    assert {(p.saved, p.pruned, p.regret) for p in played} == {(0.0, 0, 0.0)}


def test_the_median_pruner_saves_time_in_sweeps_of_eight_and_loses_less_than_one_measurement_errs(curves):
    played = sweeps(curves, MEDIAN, 50)
    assert mean(p.pruned for p in played) >= 1
    assert mean(p.saved for p in played) > 0.1
    assert mean(p.regret for p in played) < mean(curve.error for curve in curves)


def test_optunas_own_median_pruner_stops_fewer(curves):
    theirs = optuna.pruners.MedianPruner()
    orders = [random.Random(seed).sample(curves, 8) for seed in range(20)]
    ours = sum(p.pruned for p in sweeps(curves, MEDIAN, 20))
    assert sum(play(order, theirs).pruned for order in orders) < ours / 2
