"""What the proof of scale rests on: a report costs the same in any sweep, and nothing is done twice."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy

from sweeper.engines.replay import ReplayEngine
from sweeper.messages import BASE, Done, TrialState
from tests.simulated import Crew
from tests.sweeps import Clock, configure, open_coordinator, open_study

TEN_MARKS = ("sampler=random", "task.evaluation.marks_per_epoch=10")


def play(folder: Path, workers: int, *overrides: str) -> Crew:
    """A sweep by simulated workers, to its end."""
    clock = Clock()
    coordinator, _, _ = open_coordinator(folder, *TEN_MARKS, *overrides, clock=clock)
    crew = Crew(coordinator, ReplayEngine(configure(folder, *TEN_MARKS, *overrides)[0]), clock)
    crew.work(workers)
    coordinator.close()
    return crew


@contextmanager
def statements() -> Iterator[Counter[str]]:
    """Counts what all databases are asked meanwhile: statements by their first word, and commits."""
    counts: Counter[str] = Counter()

    def asked(_c: object, _cursor: object, statement: str, *_: object) -> None:
        counts[statement.split()[0]] += 1

    def committed(_c: object) -> None:
        counts["COMMIT"] += 1

    engine = sqlalchemy.engine.Engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", asked)
    sqlalchemy.event.listen(engine, "commit", committed)
    try:
        yield counts
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", asked)
        sqlalchemy.event.remove(engine, "commit", committed)


def cost_of_a_trial(folder: Path, after: int) -> Counter[str]:
    """Statements of one more trial with its ten reports, after so many."""
    play(folder, 8, f"budget.trials={after}", "pruner=none")
    clock = Clock()
    more = (*TEN_MARKS, f"budget.trials={after + 1}", "pruner=median", "pruner.min_peers=1000")
    coordinator, _, _ = open_coordinator(folder, *more, clock=clock)
    crew = Crew(coordinator, ReplayEngine(configure(folder, *more)[0]), clock)
    with statements() as counts:
        crew.work(1)
    assert Counter(call.verb for call in crew.calls)["report"] == 10
    return counts


def test_a_trial_asks_the_database_as_much_after_120_trials_as_after_10(tmp_path):
    few, many = cost_of_a_trial(tmp_path / "few", 10), cost_of_a_trial(tmp_path / "many", 120)
    assert few == many
    assert few["COMMIT"] == 12, "one for the proposal, one for each report, one for the end"
    assert few["SELECT"] == 1, "what it wrote itself it need not read"


def test_64_workers_use_the_budget_exactly_and_train_nothing_twice(tmp_path):
    crew = play(tmp_path, 64, "budget.trials=200", "pruner=successive_halving")
    trials = [record for record in open_study(tmp_path, *TEN_MARKS).records() if record.number != BASE]
    assert [record.number for record in trials] == list(range(200))
    assert all(record.state.is_over and record.attempt == 1 for record in trials)
    assert {record.state for record in trials} == {TrialState.FINISHED, TrialState.PRUNED}
    stored = sum(len(record.reports) for record in trials)
    reports = Counter(call.verb for call in crew.calls)["report"]
    assert reports == stored + 1, "every report is there once, and the base model's"


@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_resumed_in_between_many_workers_end_where_the_budget_does(tmp_path, pruner):
    play(tmp_path, 16, "budget.trials=30", f"pruner={pruner}")
    play(tmp_path, 16, "budget.trials=40", f"pruner={pruner}")
    trials = [record for record in open_study(tmp_path, *TEN_MARKS).records() if record.number != BASE]
    assert len(trials) == 40
    assert all(record.state.is_over for record in trials)


def test_a_coordinator_keeps_nothing_of_a_finished_trial(tmp_path):
    coordinator, _, _ = open_coordinator(tmp_path, *TEN_MARKS, "budget.trials=20")
    clock = Clock()
    Crew(coordinator, ReplayEngine(configure(tmp_path, *TEN_MARKS)[0]), clock).work(4)
    assert isinstance(coordinator.next_trial(), Done)
    assert coordinator._running == {}


def test_hundreds_of_idle_workers_ask_the_less_the_more_is_running(tmp_path):
    coordinator, _, _ = open_coordinator(tmp_path, *TEN_MARKS, "budget.trials=60")
    clock = Clock()
    engine = ReplayEngine(configure(tmp_path, *TEN_MARKS)[0])
    crew = Crew(coordinator, engine, clock)
    crew.work(200)
    polls = Counter(call.verb for call in crew.calls)["next_trial"]
    assert polls < 200 * 60


def test_decisions_are_the_same_whether_finished_trials_were_seen_running_or_not(tmp_path):
    def decisions(folder: Path, *stages: int) -> list[TrialState]:
        for budget in stages:
            play(folder, 1, f"budget.trials={budget}", "pruner=median")
        return [record.state for record in open_study(folder, *TEN_MARKS).records()]

    assert decisions(tmp_path / "parts", 8, 12, 24) == decisions(tmp_path / "whole", 24)
