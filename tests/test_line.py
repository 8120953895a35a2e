"""The coordinator's end of a worker's channel: who holds what, and who has fallen silent."""

from sweeper.executors.line import Line
from sweeper.messages import BASE, Decision, Done, Ending, Outcome, Progress, TrialState
from tests.sweeps import Clock, open_coordinator


def finished(spec):
    return Outcome(spec.trial, spec.attempt, Ending.FINISHED, spec.examples, "test", "")


def after_base(folder, *overrides):
    coordinator, study, recorder = open_coordinator(folder, *overrides)
    coordinator.finish(finished(coordinator.next_trial()))
    return coordinator, study, recorder


def test_it_knows_the_trials_that_its_worker_holds(tmp_path):
    coordinator, _, _ = after_base(tmp_path)
    one, other = Line(coordinator), Line(coordinator)
    assert (one.has_loaded, one.has_trained) == (False, False)
    first, second = one.next_trial(), one.next_trial()
    third = other.next_trial()
    assert (one.trials, other.trials) == ({first.trial, second.trial}, {third.trial})
    one.finish(finished(first))
    assert one.trials == {second.trial}
    assert (one.has_loaded, one.has_trained) == (True, True)


def test_cut_it_gives_back_its_own_trials_alone(tmp_path):
    coordinator, study, recorder = after_base(tmp_path)
    one, other = Line(coordinator), Line(coordinator)
    mine, its = one.next_trial(), other.next_trial()
    one.cut("its worker was ended by SIGKILL")
    assert one.trials == set()
    assert study.record(mine.trial).state is TrialState.WAITING
    assert recorder.of("ended")[-1].reason == "its worker was ended by SIGKILL"
    assert study.record(its.trial).state is TrialState.RUNNING
    again = other.next_trial()
    assert (again.trial, again.attempt) == (mine.trial, 2)
    assert one.report(Progress(mine.trial, mine.attempt, 8)) is Decision.CANCEL
    one.cut("its worker was ended by SIGKILL")
    assert study.record(mine.trial).state is TrialState.RUNNING, (
        "what another one took over is not given back"
    )


def test_who_waits_holds_nothing_and_who_is_told_the_end_is_done(tmp_path):
    coordinator, _, _ = open_coordinator(tmp_path, "budget.trials=1")
    one, other = Line(coordinator), Line(coordinator)
    base = one.next_trial()
    assert base.trial == BASE
    other.next_trial()
    assert (other.trials, other.has_loaded, other.has_trained, other.is_done) == (set(), True, False, False)
    coordinator.stop("enough")
    assert one.report(Progress(BASE, base.attempt, 0)) is Decision.SUSPEND
    assert isinstance(other.next_trial(), Done)
    assert other.is_done


def test_silence_is_counted_from_the_start_and_from_the_last_call(tmp_path):
    coordinator, _, _ = after_base(tmp_path)
    clock = Clock()
    line = Line(coordinator, clock)
    clock.seconds = 30
    assert line.silence == 30
    spec = line.next_trial()
    clock.seconds = 35
    assert line.silence == 5
    line.report(Progress(spec.trial, spec.attempt, 8))
    clock.seconds = 36
    assert line.silence == 1
    line.finish(finished(spec))
    assert line.silence == 0
