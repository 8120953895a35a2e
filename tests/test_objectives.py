"""What is best: constraints, Pareto front, ties within one standard error."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.config import ConstraintConfig, Goals, ObjectiveConfig
from sweeper.events import TrialRecord
from sweeper.messages import BASE, TrialState
from sweeper.study.objectives import best_of, front, nearest, tied, value, values, violations
from tests import tiny

QUALITY = ObjectiveConfig("rougeL", "maximize")
LOSS = ObjectiveConfig("loss", "minimize")
SECONDS = ObjectiveConfig("seconds", "minimize")
SIZE = ObjectiveConfig("adapter_megabytes", "minimize")
RECALL = ConstraintConfig("recall", at_least=0.6)
GAP = ConstraintConfig("gap", at_most=0.05)


def trial(number, objective, state=TrialState.FINISHED, error=0.0, **known):
    """A finished trial; `known` are metrics, `seconds`, `errors` or `cost`."""
    fields = {name: known.pop(name) for name in ("seconds", "errors", "cost") if name in known}
    return TrialRecord(
        number,
        state,
        1,
        {},
        tiny.settings(),
        objective=objective,
        error=error,
        best_mark=None if objective is None else 96,
        metrics={"rougeL": objective, **known} if objective is not None else {},
        **fields,
    )


def numbers(records):
    return [record.number for record in records]


def test_seconds_of_the_base_model_are_those_of_its_worker():
    assert value(trial(BASE, 0.1, cost={"seconds": 12.0}), "seconds") == 12.0
    assert value(trial(BASE, 0.1), "seconds") is None
    assert value(trial(3, 0.1, seconds=20.0, cost={"seconds": 12.0}), "seconds") == 20.0


def test_one_objective_the_earliest_of_equals_wins():
    trials = [trial(i, objective) for i, objective in enumerate([0.2, 0.4, 0.4, None])]
    assert best_of(trials, Goals(QUALITY)).number == 1
    assert best_of(trials, Goals(replace(QUALITY, direction="minimize"))).number == 0
    assert best_of([], Goals(QUALITY)) is None


def test_only_finished_trials_can_be_best():
    states = [TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING, TrialState.FINISHED]
    trials = [trial(i, 0.9 - i / 10, state) for i, state in enumerate(states)]
    assert best_of([trial(BASE, 0.99), *trials], Goals(QUALITY)).number == 3


def test_a_violator_is_never_best():
    goals = Goals(QUALITY, constraints=(RECALL, GAP))
    trials = [
        trial(0, 0.5, recall=0.59, gap=0.01),
        trial(1, 0.4, recall=0.7, gap=0.06),
        trial(2, 0.3, recall=0.6, gap=0.05),
        trial(3, 0.2, recall=0.9, gap=0.0),
        trial(4, 0.6, recall=math.nan, gap=0.0),
        trial(5, 0.7, gap=0.0),
    ]
    assert best_of(trials, goals).number == 2
    assert best_of(trials[:2], goals) is None


def test_tied_are_those_within_the_error_of_the_best_that_can_be():
    goals = Goals(QUALITY, constraints=(RECALL,))
    trials = [
        trial(0, 0.9, recall=0.1),
        trial(1, 0.45, error=0.3, recall=0.7),
        trial(2, 0.5, error=0.06, recall=0.7),
        trial(3, 0.43, error=0.3, recall=0.7),
        trial(4, 0.46, TrialState.PRUNED, recall=0.7),
    ]
    assert numbers(tied(trials, goals)) == [2, 1]
    assert tied(trials[:1], goals) == []


def test_the_nearest_misses_by_the_least_in_sum():
    goals = Goals(QUALITY, constraints=(RECALL, GAP))
    trials = [
        trial(0, 0.5, recall=0.5, gap=0.01),
        trial(1, 0.4, recall=0.55, gap=0.06),
        trial(2, 0.9, TrialState.PRUNED, recall=0.6, gap=0.06),
        trial(3, 0.9, recall=math.nan, gap=0.0),
    ]
    assert nearest(trials, goals).number == 1
    assert violations(trials[1], goals) == [
        "recall 0.550 misses ≥ 0.6 by 0.050",
        "gap 0.060 misses ≤ 0.05 by 0.010",
    ]
    assert violations(trials[3], goals) == ["recall has no value, to be ≥ 0.6"]
    assert violations(trial(BASE, 0.1), goals) == violations(trial(1, None), goals) == []
    assert nearest([trials[2]], goals) is None


def test_within_one_standard_error_the_next_objective_decides():
    goals = Goals(QUALITY, (SECONDS,))
    trials = [
        trial(0, 0.30, error=0.02, seconds=90.0),
        trial(1, 0.29, seconds=40.0),
        trial(2, 0.28, seconds=30.0),
        trial(3, 0.27, seconds=10.0),
        trial(4, 0.25, seconds=50.0),
    ]
    assert numbers(front(trials, goals)) == [0, 1, 2, 3]
    assert best_of(trials, goals).number == 2
    assert best_of([replace(trials[0], error=0.0), *trials[1:]], goals).number == 0
    assert best_of([replace(trials[0], error=None), *trials[1:]], goals).number == 0


def test_a_third_objective_decides_among_those_tied_in_the_second():
    goals = Goals(QUALITY, (LOSS, SIZE))
    trials = [
        trial(0, 0.30, error=0.05, loss=2.0, cost={"adapter_megabytes": 1.0}),
        trial(1, 0.29, loss=1.00, errors={"loss": 0.1}, cost={"adapter_megabytes": 4.0}),
        trial(2, 0.28, loss=1.05, cost={"adapter_megabytes": 2.0}),
        trial(3, 0.20, loss=0.1, cost={"adapter_megabytes": 0.5}),
    ]
    assert best_of(trials, goals).number == 2


def test_a_trial_without_a_value_in_an_objective_is_not_on_the_front():
    goals = Goals(QUALITY, (LOSS,))
    trials = [trial(0, 0.3, loss=1.0), trial(1, 0.9, loss=math.nan), trial(2, 0.9)]
    assert numbers(front(trials, goals)) == [0]
    assert values(trials[1], goals) == (0.9, None)
    assert value(trial(0, 0.1, seconds=3.0), "seconds") == 3.0


NUMBERS = st.integers(-3, 3).map(float)
DIRECTIONS = st.lists(st.sampled_from(["maximize", "minimize"]), min_size=1, max_size=3)


@given(DIRECTIONS, st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, st.booleans()), max_size=12))
def test_the_front_is_what_nobody_beats(directions, points):
    names = ["rougeL", "a", "b"]
    first, *also = [ObjectiveConfig(name, way) for name, way in zip(names, directions, strict=False)]
    goals = Goals(first, tuple(also), (ConstraintConfig("fair", at_least=1.0),))
    trials = [trial(i, x, a=a, b=b, fair=float(fair)) for i, (x, a, b, fair) in enumerate(points)]

    def beats(one, other):
        pairs = [(one.metrics[o.metric], other.metrics[o.metric], o) for o in goals.objectives]
        return any(o.better(x, y) for x, y, o in pairs) and not any(o.better(y, x) for x, y, o in pairs)

    fair = [one for one in trials if one.metrics["fair"]]
    expected = [one for one in fair if not any(beats(other, one) for other in fair)]
    assert front(trials, goals) == expected
    best = best_of(trials, goals)
    assert (best in expected) if expected else best is None
    if best is not None:  # without errors the order of the objectives alone decides
        signs = [-1 if one.direction == "maximize" else 1 for one in goals.objectives]
        assert best == min(
            expected, key=lambda one: [sign * v for sign, v in zip(signs, values(one, goals), strict=True)]
        )


@pytest.mark.parametrize(
    ("a", "b", "better"),
    [
        ((0.3, 0.7), (0.2, 0.7), True),
        ((0.2, 0.7), (0.3, 0.7), False),
        ((0.2, 0.6), (0.3, 0.5), True),
        ((0.3, 0.5), (0.2, 0.6), False),
        ((0.3, 0.1), (0.2, 0.5), True),
        ((0.3, 0.7), (0.3, 0.7), False),
        ((0.9, math.nan), (0.2, 0.6), False),
    ],
)
def test_the_mark_that_is_kept_meets_the_constraints_if_one_does(a, b, better):
    goals = Goals(QUALITY, constraints=(RECALL,))
    kept, other = ({"rougeL": objective, "recall": recall} for objective, recall in (a, b))
    assert goals.better(kept, other) is better
