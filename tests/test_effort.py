"""Device time: where it went, and what pruning saved."""

from dataclasses import replace

import pytest

from sweeper.inbox import Stop
from sweeper.messages import BASE, TrialState
from sweeper.report.effort import effort, saved_by
from tests.telling import told, verdict


def record(number, state, seconds, **changes):
    return replace(told().trials[0], number=number, state=state, seconds=seconds, **changes)


def test_time_is_told_parts_and_adds_up():
    base = record(BASE, TrialState.FINISHED, 0.0, cost={"seconds": 12.0, "evaluation_seconds": 11.0})
    trials = [
        record(0, TrialState.FINISHED, 60.0, cost={"train_seconds": 40.0, "evaluation_seconds": 15.0}),
        record(1, TrialState.FAILED, 5.0, cost={}),
        record(2, TrialState.WAITING, 7.0, cost={}),
    ]
    spent = effort(base, trials)
    assert dict(spent.parts) == {"base model": 12.0, "finished": 60.0, "failed": 5.0, "interrupted": 7.0}
    assert (spent.total, spent.training, spent.evaluating) == (84.0, 40.0, 26.0)
    assert (spent.saved, spent.pruned, spent.share_saved) == (0.0, 0, 0.0)


def test_the_runs_of_the_verdict_are_a_part_of_their_own():
    pruned = record(3, TrialState.PRUNED, 20.0, examples=96, reports={48: 0.1}, trained=48, cost={})
    spent = effort(None, [pruned], replace(verdict(), seconds=90.0))
    assert dict(spent.parts) == {"pruned": 20.0, "verdict": 90.0}
    assert spent.total == 110.0
    assert spent.share_saved == pytest.approx(0.5), "nothing of a verdict is pruned"


def test_a_trial_that_a_person_stopped_was_not_saved_by_pruning():
    known = {"examples": 96, "reports": {48: 0.1}, "trained": 48}
    for why in ("", "too slow"):
        assert saved_by(record(3, TrialState.PRUNED, 20.0, reason=Stop(3, why).reason, **known)) is None
    by_pruner = record(3, TrialState.PRUNED, 20.0, reason="pruned at example 48", **known)
    assert saved_by(by_pruner) == pytest.approx(20.0)


def test_a_pruned_trial_saves_the_rest_of_its_own_length_at_its_own_speed():
    pruned = record(3, TrialState.PRUNED, 20.0, examples=96, reports={24: 0.1, 48: 0.1}, trained=48)
    assert saved_by(pruned) == pytest.approx(20.0)
    spent = effort(None, [record(0, TrialState.FINISHED, 40.0, cost={}), pruned])
    assert (spent.saved, spent.pruned) == (pytest.approx(20.0), 1)
    assert spent.share_saved == pytest.approx(20 / 80)


def test_work_that_an_interruption_repeated_is_no_slower_training():
    again = record(3, TrialState.PRUNED, 30.0, examples=96, reports={48: 0.1}, trained=72)
    assert saved_by(again) == pytest.approx(48 * 30 / 72)


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        (TrialState.FINISHED, {}),
        (TrialState.PRUNED, {"reports": {}}),
        (TrialState.PRUNED, {"trained": 0}),
    ],
)
def test_nothing_is_made_up(state, changes):
    assert saved_by(record(1, state, 20.0, **changes)) is None
