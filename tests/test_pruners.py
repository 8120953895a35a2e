"""Pruners on synthetic learning curves: who is stopped, who must not be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from sweeper.config import PrunerConfig
from sweeper.study.pruners import is_below, make_pruner

MARK = 48
MEDIAN = PrunerConfig("median", min_peers=3)


@dataclass(frozen=True)
class Curve:
    """What a trial would report at its marks, the last of which is its whole length."""

    values: Sequence[float]
    final: TrialState = TrialState.COMPLETE

    @property
    def examples(self) -> int:
        return MARK * len(self.values)


def sweep(config: PrunerConfig, curves: Sequence[Curve], direction: str = "maximize") -> list[int]:
    """Train the curves one after another; the number of marks that each was allowed to reach."""
    longest = max(curve.examples for curve in curves)
    # Hyperband deals trials to its brackets by the study's name.
    study = optuna.create_study(
        study_name="sweep", direction=direction, pruner=make_pruner(config, MARK, longest)
    )
    reached = []
    for curve in curves:
        trial = study.ask()
        trial.set_user_attr("examples", curve.examples)
        state = curve.final
        for index, value in enumerate(curve.values, 1):
            trial.report(value, index * MARK)
            if trial.should_prune():
                state = TrialState.PRUNED
                break
        reached.append(index)
        study.tell(trial, curve.values[-1] if state == TrialState.COMPLETE else None, state=state)
    return reached


def test_a_trial_that_meets_the_constraints_has_peers_that_do() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner(MEDIAN, MARK, 2 * MARK))

    def is_pruned(value: float, *violated: int) -> bool:
        trial = study.ask()
        trial.set_user_attr("examples", 2 * MARK)
        trial.set_user_attr("violated", list(violated))
        trial.report(value, MARK)
        return trial.should_prune()

    assert not any(is_pruned(0.5, MARK) for _ in range(4))
    assert is_pruned(0.2, MARK), "a violator is compared with all"
    assert not is_pruned(0.2, 2 * MARK), "what it does at another mark is not looked at"
    assert not any(is_pruned(value) for value in (0.3, 0.4))
    assert is_pruned(0.25), "by those three"


def rising(level: float, marks: int = 4) -> Curve:
    return Curve([level * (1 - 0.5**mark) for mark in range(1, marks + 1)])


EIGHT = [rising(level) for level in (0.30, 0.25, 0.32, 0.10, 0.28, 0.12, 0.35, 0.20)]
BEST = 6


@pytest.mark.parametrize("name", ["median", "percentile"])
def test_a_sweep_of_eight_is_pruned(name: str) -> None:
    reached = sweep(PrunerConfig(name, percentile=50.0, min_peers=3), EIGHT)
    assert reached[:3] == [4, 4, 4], "nothing is pruned before there are peers"
    assert [reached[index] for index in (3, 5, 7)] == [1, 1, 1]
    assert reached[BEST] == 4


def test_optunas_own_median_rule_would_prune_less() -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=5))
    pruned = 0
    for curve in EIGHT:
        trial = study.ask()
        for index, value in enumerate(curve.values, 1):
            trial.report(value, index)
            pruned += trial.should_prune()
        study.tell(trial, curve.values[-1])
    assert pruned < sum(4 - marks for marks in sweep(MEDIAN, EIGHT))


def test_simultaneous_trials_are_compared_while_they_run() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner(MEDIAN, MARK, 4 * MARK))
    trials = [study.ask() for _ in range(4)]
    for trial, value in zip(trials, (0.3, 0.4, 0.5, 0.1), strict=True):
        trial.set_user_attr("examples", 4 * MARK)
        trial.report(value, MARK)
    assert [trial.should_prune() for trial in trials] == [True, False, False, True]


def test_the_direction_is_the_studys() -> None:
    curves = [Curve([1 - value for value in curve.values]) for curve in EIGHT]
    assert sweep(MEDIAN, curves, "minimize") == sweep(MEDIAN, EIGHT, "maximize")


def test_a_percentile_below_fifty_prunes_more() -> None:
    strict = sweep(PrunerConfig("percentile", percentile=25.0, min_peers=3), EIGHT)
    assert sum(strict) < sum(sweep(MEDIAN, EIGHT))
    assert strict[BEST] == 4


def test_a_slow_but_better_long_trial_survives() -> None:
    short = [Curve([0.20 + level, 0.30 + level]) for level in (0.0, 0.01, 0.02, 0.03, 0.04)]
    slow = Curve([0.05, 0.10, 0.20, 0.30, 0.40, 0.50])
    assert sweep(MEDIAN, [*short, slow])[-1] == 6


def test_long_trials_are_compared_among_themselves() -> None:
    short = [Curve([0.2, 0.3])] * 3
    long = [Curve([0.1, 0.2, 0.3, 0.4])] * 3
    assert sweep(MEDIAN, [*short, *long, Curve([0.05, 0.3, 0.4, 0.5])])[-1] == 1


def test_a_short_trial_without_equals_is_compared_with_longer_ones() -> None:
    long = [Curve([0.2, 0.3, 0.4, 0.5])] * 3
    assert sweep(MEDIAN, [*long, Curve([0.1, 0.2])])[-1] == 1
    assert sweep(MEDIAN, [*long, Curve([0.25, 0.3])])[-1] == 2


def test_failed_trials_and_values_that_are_not_finite_are_no_peers() -> None:
    failed = [Curve([0.9, 0.9], TrialState.FAIL)] * 3
    assert sweep(MEDIAN, [*failed, Curve([0.1, 0.1])])[-1] == 2
    diverged = [Curve([0.9, math.nan, math.inf], TrialState.PRUNED)] * 3
    assert (
        sweep(PrunerConfig("median", min_peers=1), [Curve([0.9] * 3), *diverged, Curve([0.9, 0.9, 0.9])])[-1]
        == 3
    )


@pytest.mark.parametrize("name", ["median", "successive_halving", "hyperband", "patient"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_prunes_nobody(name: str, value: float) -> None:
    config = PrunerConfig(name, min_peers=1, reduction_factor=2, patience=1)
    curves = [rising(0.3), rising(0.3), Curve([value] * 4, TrialState.FAIL), rising(0.31)]
    assert sweep(config, curves)[2:] == [4, 4]


@pytest.mark.parametrize("name", ["median", "percentile", "successive_halving", "hyperband", "patient"])
def test_no_trial_is_pruned_at_its_own_last_mark(name: str) -> None:
    config = PrunerConfig(name, percentile=50.0, min_peers=1, reduction_factor=2, patience=1)
    curves = [Curve([0.5, 0.6]), Curve([0.5, 0.6]), Curve([0.7, 0.1]), Curve([0.1])]
    assert sweep(config, curves) == [2, 2, 2, 1]


def test_none_prunes_nothing() -> None:
    assert sweep(PrunerConfig("none"), EIGHT) == [4] * 8


@pytest.mark.parametrize("count", [8, 12])
@pytest.mark.parametrize("marks", [2, 4])
def test_successive_halving_prunes_with_marks_as_steps(count: int, marks: int) -> None:
    curves = [Curve(curve.values[:marks]) for curve in [*EIGHT, *EIGHT][:count]]
    reached = sweep(PrunerConfig("successive_halving", reduction_factor=2), curves)
    assert sum(mark < marks for mark in reached) >= 3
    assert reached[BEST] == marks


@pytest.mark.parametrize(("count", "marks"), [(8, 2), (24, 4)])
def test_hyperband_prunes_within_its_brackets(count: int, marks: int) -> None:
    # Two marks make one bracket; with four, the trials are dealt to two, and more of them are needed.
    curves = [Curve(curve.values[:marks]) for curve in (EIGHT * 3)[:count]]
    reached = sweep(PrunerConfig("hyperband", reduction_factor=3), curves)
    assert sum(mark < marks for mark in reached) >= 3
    assert reached[BEST] == marks


def test_patience_counts_marks_without_a_better_value() -> None:
    stuck = Curve([0.1, 0.4, 0.3, 0.35, 0.2, 0.1])
    assert sweep(PrunerConfig("patient", patience=2), [stuck]) == [4]
    assert sweep(PrunerConfig("patient", patience=1), [stuck]) == [3]
    assert sweep(PrunerConfig("patient", patience=2), [rising(0.3)]) == [4]


values = st.floats(-1e6, 1e6, allow_nan=False)
curve_lists = st.lists(st.lists(values, min_size=1, max_size=5), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(curves=curve_lists, direction=st.sampled_from(["maximize", "minimize"]), percent=st.floats(1, 99))
def test_the_best_at_every_mark_is_never_pruned(
    curves: list[list[float]], direction: str, percent: float
) -> None:
    best = max if direction == "maximize" else min
    length = max(len(curve) for curve in curves)
    leader = [best(curve[mark] for curve in curves if len(curve) > mark) for mark in range(length)]
    config = PrunerConfig("percentile", percentile=percent, min_peers=1)
    assert sweep(config, [*map(Curve, curves), Curve(leader)], direction)[-1] == length


@settings(max_examples=20, deadline=None)
@given(curves=curve_lists)
def test_the_same_reports_get_the_same_answers(curves: list[list[float]]) -> None:
    trials = [Curve(curve) for curve in curves]
    assert sweep(MEDIAN, trials) == sweep(MEDIAN, trials)


halves = st.integers(-6, 6).map(lambda number: number / 2)


@settings(max_examples=500, deadline=None)
@given(value=halves, others=st.lists(halves, min_size=1, max_size=12), percent=st.floats(0, 100))
def test_counting_tells_what_the_percentile_would(value: float, others: list[float], percent: float) -> None:
    expected = value < np.percentile(others, percent)
    assert is_below(value, np.array(others), percent) == expected
