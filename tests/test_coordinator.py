"""The coordinator as a state machine, driven by hand and by the replay engine."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.coordinator import in_common, marks_of
from sweeper.engines.replay import ReplayEngine
from sweeper.events import TrialRecord
from sweeper.messages import (
    BASE,
    Decision,
    Done,
    Ending,
    Evaluation,
    Outcome,
    Progress,
    TrialSpec,
    TrialState,
    Wait,
)
from sweeper.study.objectives import front
from tests.sweeps import Clock, Recorder, configure, open_coordinator, open_study


def play(folder: Path, *overrides: str) -> list[TrialRecord]:
    """Run a sweep to its end by the replay engine; gives the records."""
    coordinator, study, _ = open_coordinator(folder, *overrides)
    ReplayEngine(configure(folder, *overrides)[0], sleep=lambda _: None).run(coordinator)
    coordinator.close()
    return study.records()


def evaluation(mark: int, objective: float) -> Evaluation:
    return Evaluation(mark, objective, 0.01, {"rougeL": objective, "loss": 1.0})


def outcome(spec: TrialSpec, ending: Ending, objective: float | None = None, reason: str = "") -> Outcome:
    best = None if objective is None else evaluation(spec.marks[-1], objective)
    return Outcome(spec.trial, spec.attempt, ending, spec.examples, "test", reason, best)


def take(coordinator) -> TrialSpec:
    spec = coordinator.next_trial()
    assert isinstance(spec, TrialSpec)
    return spec


def after_base(folder: Path, *overrides: str, **more):
    coordinator, study, recorder = open_coordinator(folder, *overrides, **more)
    coordinator.finish(outcome(take(coordinator), Ending.FINISHED, 0.1))
    return coordinator, study, recorder


@pytest.mark.parametrize(
    ("rows", "marks_per_epoch", "epochs", "expected"),
    [(96, 2, 1, (48, 96)), (96, 2, 2, (48, 96, 144, 192)), (10, 3, 1, (4, 7, 10)), (1, 4, 1, (1,))],
)
def test_marks_are_shares_of_one_pass(tmp_path, rows, marks_per_epoch, epochs, expected):
    config, _ = configure(tmp_path)
    plan = replace(config.task.evaluation, marks_per_epoch=marks_per_epoch)
    assert marks_of(replace(config.trial, epochs=epochs), rows, plan) == expected


def test_base_model_then_defaults_come_first(tmp_path):
    coordinator, _, _ = open_coordinator(tmp_path)
    base = take(coordinator)
    assert (base.trial, base.marks, base.examples) == (BASE, (0,), 0)
    assert isinstance(coordinator.next_trial(), Wait), "the base model is being measured"
    coordinator.finish(outcome(base, Ending.FINISHED, 0.1))
    first = take(coordinator)
    assert first.trial == 0
    assert first.settings == configure(tmp_path)[0].trial
    assert first.marks == (48, 96)


def test_budget_is_a_total_and_waits_for_running_trials(tmp_path):
    coordinator, study, _ = after_base(tmp_path, "budget.trials=2")
    specs = [take(coordinator), take(coordinator)]
    assert isinstance(coordinator.next_trial(), Wait)
    for spec in specs:
        coordinator.finish(outcome(spec, Ending.FINISHED, 0.2))
    assert isinstance(coordinator.next_trial(), Done)
    assert [r.state for r in study.records()] == [TrialState.FINISHED] * 3


def test_old_attempts_are_cancelled_and_recorded_nowhere(tmp_path):
    coordinator, study, recorder = after_base(tmp_path)
    old = take(coordinator)
    coordinator.lost([old.trial])
    new = take(coordinator)
    assert (new.trial, new.attempt) == (old.trial, old.attempt + 1)
    heard = len(recorder.heard)
    late = Progress(old.trial, old.attempt, 48, evaluation=evaluation(48, 0.9))
    assert coordinator.report(late) is Decision.CANCEL
    coordinator.finish(outcome(old, Ending.FINISHED, 0.9))
    assert len(recorder.heard) == heard
    assert study.record(new.trial).state is TrialState.RUNNING
    assert study.record(new.trial).reports == {}


def test_a_trial_fails_when_it_has_lost_more_workers_than_it_may(tmp_path):
    coordinator, study, recorder = after_base(tmp_path, "executor.retries=2", "budget.trials=2")
    for attempt in (1, 2, 3):
        spec = take(coordinator)
        assert (spec.trial, spec.attempt) == (0, attempt)
        checkpoint = spec.folder / f"attempt-{attempt}" / "step-000001"
        checkpoint.mkdir(parents=True)
        coordinator.lost([0], "its worker said nothing for 600 s")
    assert [r.state.value for r in recorder.of("ended") if r.number == 0] == ["waiting", "waiting", "failed"]
    assert study.record(0).reason == (
        "its worker said nothing for 600 s; that was worker 3 of this trial, and executor.retries=2 "
        "allows no more"
    )
    assert not list(spec.folder.glob("attempt-*")), "nobody goes on from its checkpoints"
    assert take(coordinator).trial == 1


def test_trials_that_are_lost_together_have_each_their_own_reason(tmp_path):
    coordinator, study, _ = after_base(tmp_path, "executor.retries=0")
    numbers = [take(coordinator).trial, take(coordinator).trial]
    coordinator.lost(numbers, "its worker ended with exit code 7")
    assert {study.record(number).reason for number in numbers} == {
        "its worker ended with exit code 7; that was worker 1 of this trial, and executor.retries=0 "
        "allows no more"
    }


def test_a_base_model_that_loses_its_workers_is_done_without(tmp_path):
    coordinator, _, _ = open_coordinator(tmp_path, "executor.retries=1")
    coordinator.lost([take(coordinator).trial])
    again = take(coordinator).trial
    assert again == BASE, "one may be lost"
    coordinator.lost([again])
    assert take(coordinator).trial == 0


def test_a_worker_lost_while_the_sweep_stops_fails_no_trial(tmp_path):
    coordinator, study, _ = after_base(tmp_path, "executor.retries=0")
    spec = take(coordinator)
    coordinator.stop("interrupted (SIGTERM)")
    coordinator.lost([spec.trial])
    assert study.record(0).state is TrialState.WAITING


def test_a_stored_mark_keeps_its_value(tmp_path):
    coordinator, study, recorder = after_base(tmp_path)
    spec = take(coordinator)
    for value in (0.3, 0.7):
        report = Progress(spec.trial, spec.attempt, 48, evaluation=evaluation(48, value))
        assert coordinator.report(report) is Decision.CONTINUE
    assert study.record(spec.trial).reports == {48: 0.3}
    assert [p.metrics["objective"] for p in recorder.of("measured") if p.mark == 48] == [0.3]


def test_median_prunes_the_worse_and_stores_why(tmp_path):
    coordinator, study, _ = after_base(tmp_path)
    for _ in range(3):
        spec = take(coordinator)
        coordinator.report(Progress(spec.trial, 1, 48, evaluation=evaluation(48, 0.3)))
        coordinator.finish(outcome(spec, Ending.FINISHED, 0.3))
    spec = take(coordinator)
    report = Progress(spec.trial, 1, 48, evaluation=evaluation(48, 0.2))
    assert coordinator.report(report) is Decision.PRUNE
    coordinator.finish(outcome(spec, Ending.PRUNED, 0.2, "pruned at example 48"))
    record = study.record(spec.trial)
    assert (record.state, record.reason) == (TrialState.PRUNED, "pruned at example 48")


def test_stop_suspends_and_the_trial_goes_on_next_time(tmp_path):
    coordinator, study, _ = after_base(tmp_path)
    spec = take(coordinator)
    coordinator.stop("interrupted (SIGINT)")
    assert coordinator.report(Progress(spec.trial, 1, 8, {"train_loss": 2.0})) is Decision.SUSPEND
    coordinator.finish(outcome(spec, Ending.SUSPENDED))
    assert coordinator.next_trial() == Done("interrupted (SIGINT)")
    coordinator.close()
    assert study.record(0).state is TrialState.WAITING
    again, study, _ = open_coordinator(tmp_path)
    assert (take(again).trial, study.record(0).attempt) == (0, 2)


def test_minutes_suspend_the_running_trial_and_add_up(tmp_path):
    clock = Clock()
    coordinator, study, _ = after_base(tmp_path, "budget.minutes=2", clock=clock)
    spec = take(coordinator)
    clock.seconds = 100
    assert coordinator.report(Progress(spec.trial, 1, 8, {"x": 1.0})) is Decision.CONTINUE
    coordinator.finish(outcome(spec, Ending.FINISHED, 0.2))
    coordinator.close()
    assert study.running_seconds == 100
    clock = Clock()
    coordinator, _, _ = open_coordinator(tmp_path, "budget.minutes=2", clock=clock)
    spec = take(coordinator)
    clock.seconds = 21
    assert coordinator.report(Progress(spec.trial, 1, 8, {"x": 1.0})) is Decision.SUSPEND
    coordinator.finish(outcome(spec, Ending.SUSPENDED))
    assert coordinator.next_trial() == Done("the budget of 2 minutes is used")


def test_a_kill_forgets_no_more_than_the_last_second_of_the_running_time(tmp_path):
    clock = Clock()
    coordinator, _, _ = after_base(tmp_path, clock=clock)
    spec = take(coordinator)
    clock.seconds = 100
    coordinator.report(Progress(spec.trial, 1, 48, evaluation=evaluation(48, 0.2)))
    # Nothing is closed, as after a kill.
    assert open_study(tmp_path).running_seconds == 100


def test_device_hours_count_all_trials(tmp_path):
    clock = Clock()
    coordinator, _, _ = after_base(tmp_path, "budget.device_hours=1", clock=clock)
    one, two = take(coordinator), take(coordinator)
    clock.seconds = 1900
    assert coordinator.report(Progress(one.trial, 1, 8)) is Decision.SUSPEND
    assert two.trial == 1


def test_failures_in_a_row_stop_the_sweep(tmp_path):
    coordinator, study, _ = after_base(tmp_path, "budget.failures_in_row=2")
    for ending in (Ending.FAILED, Ending.FINISHED, Ending.FAILED, Ending.FAILED):
        coordinator.finish(outcome(take(coordinator), ending, 0.2, "the loss became NaN"))
    assert coordinator.next_trial() == Done("2 trials failed in a row")
    assert study.record(0).state is TrialState.FAILED
    assert study.record(0).reason == "the loss became NaN"
    told = in_common(coordinator.failures)
    assert "all for the same reason: the loss became NaN" in told
    assert "learning_rate from" in told


def test_a_value_that_is_not_finite_is_never_stored(tmp_path):
    coordinator, study, _ = after_base(tmp_path)
    spec = take(coordinator)
    report = Progress(spec.trial, 1, 48, evaluation=evaluation(48, math.nan))
    assert coordinator.report(report) is Decision.CONTINUE
    assert study.record(spec.trial).reports == {}


def test_crashed_trials_go_on_under_their_number_with_their_cost(tmp_path):
    clock = Clock()
    coordinator, _, _ = after_base(tmp_path, clock=clock)
    spec = take(coordinator)
    coordinator.report(Progress(spec.trial, 1, 0, {"train_loss": 3.0}))
    clock.seconds = 30
    coordinator.report(Progress(spec.trial, 1, 40, {"train_loss": 2.0}))
    # Nothing is closed: as after a kill, the database still says RUNNING.
    study = open_study(tmp_path)
    assert study.record(0).state is TrialState.WAITING
    coordinator, study, recorder = open_coordinator(tmp_path)
    (opened,) = recorder.of("opened")
    assert [(r.number, r.trained, r.seconds) for r in opened][1:] == [(0, 40, 30.0)]
    again = take(coordinator)
    assert (again.trial, again.attempt, again.seed) == (spec.trial, 2, spec.seed)
    assert again.settings == spec.settings


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "quasi_random", "nsga2"])
def test_four_and_four_is_eight(tmp_path, sampler):
    whole = play(tmp_path / "whole", f"sampler={sampler}")
    play(tmp_path / "parts", f"sampler={sampler}", "budget.trials=4")
    parts = play(tmp_path / "parts", f"sampler={sampler}", "budget.trials=8")
    assert [r.params for r in parts] == [r.params for r in whole]
    assert [r.objective for r in parts] == [r.objective for r in whole]


def test_grid_tries_every_point_once_defaults_first(tmp_path):
    grid = [
        "sampler=grid",
        "space=empty",
        "+space.batch_size={choices: [4, 8]}",
        "+space.epochs={low: 1, high: 2}",
        "budget.trials=50",
        "pruner=none",
    ]
    records = play(tmp_path, *grid)[1:]
    assert records[0].params == {"batch_size": 8, "epochs": 1}
    points = {(r.params["batch_size"], r.params["epochs"]) for r in records}
    assert len(records) == len(points) == 4
    part = play(tmp_path / "parts", *grid, "budget.trials=2")[1:]
    rest = play(tmp_path / "parts", *grid)[1:]
    assert [r.params for r in rest] == [r.params for r in records]
    assert [r.params for r in part] == [r.params for r in records[:2]]


def test_a_diverging_trial_fails_and_the_sweep_goes_on(tmp_path):
    records = play(
        tmp_path,
        "space=empty",
        "+space.learning_rate={low: 1e-4, high: 1.0, log: true}",
        "sampler=random",
        "budget.failures_in_row=8",
    )
    states = {record.state for record in records}
    assert {TrialState.FAILED, TrialState.FINISHED} <= states
    failed = [r for r in records if r.state is TrialState.FAILED]
    assert all("NaN" in r.reason and r.params["learning_rate"] >= 0.05 for r in failed)


def test_listeners_hear_the_end(tmp_path):
    recorder = Recorder()
    coordinator, _, _ = open_coordinator(tmp_path, recorder=recorder)
    coordinator.close()
    ((_, best, reason),) = recorder.of("closed")
    assert best is None
    assert reason == "finished"


SEVERAL = "task.also=[{metric: chrf, direction: maximize}]"
CONSTRAINED = "task.constraints=[{metric: exact_match, at_least: 0.3}]"


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "grid", "quasi_random"])
def test_several_objectives_from_the_first_trial_to_the_front(tmp_path, sampler):
    finite = ["~space.learning_rate", "space.lora.dropout.step=0.1"] if sampler == "grid" else []
    judged = [SEVERAL, CONSTRAINED, f"sampler={sampler}", "budget.trials=6", *finite]
    trials = play(tmp_path, *judged)[1:]
    assert [trial.state for trial in trials] == [TrialState.FINISHED] * 6, "nothing is pruned"
    study = open_study(tmp_path, *judged)
    best, on_front = study.best(), front(trials, study.goals)
    assert best is None or best in on_front
    assert bool(on_front) == any(trial.metrics["exact_match"] >= 0.3 for trial in trials)


def test_constraints_lead_the_search_to_where_they_are_met(tmp_path):
    def meeting(*judged: str) -> int:
        folder = tmp_path / str(len(judged))
        trials = play(folder, "pruner=none", "budget.trials=24", "task.evaluation.marks_per_epoch=1", *judged)
        # Of synthetic trials `exact_match` is best at a rate of 7e-4, the objective at 2e-3.
        return sum(trial.params["learning_rate"] < 1e-3 for trial in trials[13:])

    alone, constrained = meeting(), meeting("task.constraints=[{metric: exact_match, at_least: 0.34}]")
    assert constrained > alone


def test_a_mark_that_violates_a_constraint_is_no_peer_of_one_that_does_not(tmp_path):
    coordinator, study, _ = after_base(tmp_path, "task.constraints=[{metric: chrf, at_least: 0.3}]")

    def decide(objective: float, chrf: float) -> Decision:
        spec = take(coordinator)
        told = replace(evaluation(48, objective), metrics={"rougeL": objective, "loss": 1.0, "chrf": chrf})
        decision = coordinator.report(Progress(spec.trial, 1, 48, evaluation=told))
        ending = Ending.PRUNED if decision is Decision.PRUNE else Ending.FINISHED
        coordinator.finish(replace(outcome(spec, ending, objective), best=told))
        return decision

    assert [decide(0.5, 0.1) for _ in range(4)] == [Decision.CONTINUE] * 4
    assert decide(0.2, 0.3) is Decision.CONTINUE
    assert decide(0.2, 0.29) is Decision.PRUNE
    assert study.best().number == 4


def test_a_clock_that_is_set_back_turns_no_measurement_round_and_no_duration_negative(tmp_path):
    """Neither within a process nor from a dead one to the next."""
    clock, now = Clock(100.0), Clock(1e9)
    coordinator, study, recorder = after_base(tmp_path, clock=clock, now=now)
    spec = take(coordinator)
    for examples, seconds in ((8, 1e9), (16, 1e9 + 5), (24, 1e9 - 3600), (32, 1e9 + 7)):
        now.seconds = seconds
        clock.seconds += 10
        coordinator.report(Progress(spec.trial, spec.attempt, examples, {"train_loss": 1.0}))
    measured = [point.time for point in recorder.of("measured")]
    assert measured == [1e9, 1e9 + 5, 1e9 + 5, 1e9 + 7]

    now.seconds = 1e9 - 86400
    coordinator, study, recorder = open_coordinator(tmp_path, clock=clock, now=now)
    spec = take(coordinator)
    assert spec.attempt == 2
    assert study.record(spec.trial).seconds == 7.0, "what the dead process spent, as its measurements tell"
    clock.seconds += 10
    coordinator.report(Progress(spec.trial, 2, 40, {"train_loss": 1.0}))
    assert [point.time for point in recorder.of("measured")] == [1e9 + 7]
    coordinator.finish(outcome(spec, Ending.FINISHED, 0.2))
    assert study.record(spec.trial).seconds == 17.0
