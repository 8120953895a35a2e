"""Commands from other terminals: obeyed once, whatever is killed when, within one report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.pruners import NopPruner

from sweeper.engines import checkpoints
from sweeper.engines.checkpoints import TrialState as CheckpointState
from sweeper.engines.replay import ReplayEngine
from sweeper.errors import StudyError
from sweeper.inbox import Enqueue, Inbox, Prune, Stop
from sweeper.layout import Layout
from sweeper.messages import (
    Decision,
    Done,
    Ending,
    Evaluation,
    Outcome,
    Progress,
    TrialSpec,
    TrialState,
)
from sweeper.study.study import Study
from tests.processes import read_until
from tests.sweeps import REPLAY, configure, open_coordinator, open_study

GIVEN = {"learning_rate": 1e-3, "batch_size": 4, "lora.rank": 16, "lora.dropout": 0.1}


def inbox(folder: Path) -> Inbox:
    return Inbox(Layout(folder, "summarize"))


def letters(folder: Path) -> list[Path]:
    return sorted(Layout(folder, "summarize").inbox.glob("*"))


def outcome(spec: TrialSpec, ending: Ending, objective: float = 0.2, reason: str = "") -> Outcome:
    best = Evaluation(spec.marks[-1], objective, 0.01, {"rougeL": objective})
    return Outcome(spec.trial, spec.attempt, ending, spec.examples, "test", reason, best)


def take(coordinator) -> TrialSpec:
    spec = coordinator.next_trial()
    assert isinstance(spec, TrialSpec)
    return spec


def begun(folder: Path, *overrides: str):
    """A sweep whose base model is measured and whose first trial runs."""
    coordinator, study, recorder = open_coordinator(folder, *overrides)
    coordinator.finish(outcome(take(coordinator), Ending.FINISHED))
    return coordinator, study, recorder, take(coordinator)


def report(spec: TrialSpec, examples: int = 8) -> Progress:
    return Progress(spec.trial, spec.attempt, examples, {"train_loss": 2.0})


def test_letters_are_read_in_the_order_of_writing_and_never_half_written(tmp_path):
    box = inbox(tmp_path)
    assert box.waiting() == []
    commands = [Stop(3, "it diverges"), Enqueue(GIVEN, "enqueued by hand"), Stop(4)]
    for command in commands:
        box.put(command)
    assert box.waiting() == commands
    (tmp_path / "summarize" / "inbox" / ".half.json.123").write_text('{"stop": {"tr')
    assert box.waiting() == commands


def test_a_running_trial_that_is_stopped_is_kept(tmp_path):
    coordinator, study, _, spec = begun(tmp_path, "pruner=none")
    assert coordinator.report(report(spec)) is Decision.CONTINUE
    inbox(tmp_path).put(Stop(spec.trial, "good enough"))
    assert coordinator.report(report(spec, 16)) is Decision.STOP
    told = "its last mark is 48 of 96 examples"
    coordinator.finish(outcome(spec, Ending.FINISHED, reason=told))
    record = study.record(spec.trial)
    assert (record.state, record.objective) == (TrialState.FINISHED, 0.2)
    assert record.reason == f"stopped by hand: good enough; {told}"
    assert study.best() == record
    take(coordinator)
    assert letters(tmp_path) == []


def test_a_replayed_trial_that_is_stopped_ends_at_its_last_mark(tmp_path):
    coordinator, study, _ = open_coordinator(tmp_path, "pruner=none", "budget.trials=2")
    plain, seen = coordinator.report, []

    def report_and_stop(progress):
        seen.append(progress)
        if progress.trial == 0 and progress.examples > 48:
            inbox(tmp_path).put(Stop(0))
        return plain(progress)

    coordinator.report = report_and_stop
    ReplayEngine(configure(tmp_path)[0], sleep=lambda _: None).run(coordinator)
    stopped, whole = study.records()[1:]
    assert (stopped.state, max(stopped.reports)) == (TrialState.FINISHED, 48)
    assert stopped.reason == "stopped by hand; its last mark is 48 of 96 examples"
    assert (whole.state, max(whole.reports)) == (TrialState.FINISHED, 96)


def test_before_its_first_mark_a_stopped_trial_has_nothing_to_keep(tmp_path):
    coordinator, study, _ = open_coordinator(tmp_path, "pruner=none", "budget.trials=1")
    plain = coordinator.report

    def report_and_stop(progress):
        if progress.trial == 0:
            inbox(tmp_path).put(Stop(0, "oops"))
        return plain(progress)

    coordinator.report = report_and_stop
    ReplayEngine(configure(tmp_path)[0], sleep=lambda _: None).run(coordinator)
    record = study.record(0)
    assert (record.state, record.reason) == (TrialState.PRUNED, "stopped by hand: oops")


def suspended(folder):
    """The first trial of a sweep that was interrupted after a mark."""
    coordinator, _, _, spec = begun(folder)
    coordinator.stop("interrupted")
    coordinator.report(Progress(spec.trial, 1, 48, evaluation=Evaluation(48, 0.2, 0.01, {"rougeL": 0.2})))
    coordinator.finish(outcome(spec, Ending.SUSPENDED))
    coordinator.close()
    return spec


def test_a_suspended_trial_that_is_stopped_is_kept_at_the_next_start(tmp_path):
    spec = suspended(tmp_path)
    written = spec.folder / "attempt-1" / ".writing"
    written.mkdir(parents=True)
    (written / "adapter_model.safetensors").write_bytes(b"weights")
    best = Evaluation(48, 0.2, 0.01, {"rougeL": 0.2, "loss": 1.0})
    state = CheckpointState(
        step=6, examples=48, evaluations=(best,), best=best, best_folder="attempt-1/step-000006"
    )
    checkpoints.seal(written, spec.folder / "attempt-1" / "step-000006", state)
    inbox(tmp_path).put(Stop(spec.trial))
    coordinator, study, recorder = open_coordinator(tmp_path)
    assert take(coordinator).trial == spec.trial + 1
    record = study.record(spec.trial)
    assert (record.state, record.reason) == (TrialState.FINISHED, "stopped by hand")
    assert record.adapter is not None
    assert (record.adapter / "adapter_model.safetensors").read_bytes() == b"weights"
    assert not (spec.folder / "attempt-1").exists(), "nobody goes on from it"
    assert study.best() == record
    assert recorder.of("ended") == [record]


def test_a_running_trial_is_pruned_at_its_next_report(tmp_path):
    coordinator, study, recorder, spec = begun(tmp_path)
    assert coordinator.report(report(spec)) is Decision.CONTINUE
    inbox(tmp_path).put(Prune(spec.trial, "it diverges"))
    assert coordinator.report(report(spec, 16)) is Decision.PRUNE
    coordinator.finish(outcome(spec, Ending.PRUNED, reason="pruned at example 16"))
    record = study.record(spec.trial)
    assert (record.state, record.reason) == (TrialState.PRUNED, "pruned by hand: it diverges")
    assert recorder.of("ended")[-1] == record
    assert take(coordinator).trial == spec.trial + 1
    assert letters(tmp_path) == []


def test_a_process_that_dies_while_it_prunes_a_trial_forgets_nothing(tmp_path):
    coordinator, _, _, spec = begun(tmp_path)
    inbox(tmp_path).put(Prune(spec.trial))
    assert coordinator.report(report(spec)) is Decision.PRUNE
    # Killed here: nothing is finished, nothing closed.
    coordinator, study, _ = open_coordinator(tmp_path)
    assert take(coordinator).trial == spec.trial + 1
    record = study.record(spec.trial)
    assert (record.state, record.reason) == (TrialState.PRUNED, "pruned by hand")
    assert letters(tmp_path) == []


def test_a_command_that_comes_too_late_changes_nothing(tmp_path):
    coordinator, study, _, spec = begun(tmp_path)
    inbox(tmp_path).put(Prune(spec.trial))
    coordinator.finish(outcome(spec, Ending.FINISHED))
    take(coordinator)
    assert (study.record(spec.trial).state, study.record(spec.trial).reason) == (TrialState.FINISHED, "")
    assert letters(tmp_path) == []


def test_a_suspended_trial_is_pruned_at_the_next_start(tmp_path):
    spec = suspended(tmp_path)
    inbox(tmp_path).put(Prune(spec.trial))
    checkpoint = spec.folder / "attempt-1" / "step-000003"
    checkpoint.mkdir(parents=True)
    coordinator, study, recorder = open_coordinator(tmp_path)
    assert take(coordinator).trial == spec.trial + 1
    assert not checkpoint.exists(), "nobody goes on from it"
    record = study.record(spec.trial)
    assert (record.state, record.reason, record.reports) == (TrialState.PRUNED, "pruned by hand", {48: 0.2})
    assert record.seconds == 0.0
    assert record.objective == 0.2, "what it had reached is still told"
    assert recorder.of("ended") == [record]


def test_an_enqueued_trial_takes_the_next_number(tmp_path):
    coordinator, study, _, spec = begun(tmp_path)
    inbox(tmp_path).put(Enqueue(GIVEN, "a clone of trial 0 with lora.rank=16"))
    assert coordinator.report(report(spec)) is Decision.CONTINUE
    coordinator.finish(outcome(spec, Ending.FINISHED))
    assert take(coordinator).trial == 1
    record = study.record(1)
    assert record.params == GIVEN
    assert record.settings.lora.rank == 16
    assert record.origin == "a clone of trial 0 with lora.rank=16"
    assert study.record(0).origin == ""


def test_the_first_trial_is_the_defaults_whatever_is_enqueued(tmp_path):
    inbox(tmp_path).put(Enqueue(GIVEN, "enqueued by hand"))
    coordinator, study, _, spec = begun(tmp_path)
    assert spec.settings == configure(tmp_path)[0].trial
    assert take(coordinator).settings == study.space.settings(GIVEN)


def test_an_enqueued_trial_waits_until_the_budget_has_room(tmp_path):
    coordinator, study, _, spec = begun(tmp_path, "budget.trials=2")
    for rank in (4, 16):
        inbox(tmp_path).put(Enqueue(GIVEN | {"lora.rank": rank}, "enqueued by hand"))
    coordinator.finish(outcome(spec, Ending.FINISHED))
    coordinator.finish(outcome(take(coordinator), Ending.FINISHED))
    assert isinstance(coordinator.next_trial(), Done)
    coordinator.close()
    assert len(letters(tmp_path)) == 1
    coordinator, study, _ = open_coordinator(tmp_path, "budget.trials=3")
    assert study.record(take(coordinator).trial).params["lora.rank"] == 16
    assert letters(tmp_path) == []


def test_an_enqueued_trial_that_is_stopped_before_it_began_keeps_its_settings(tmp_path):
    coordinator, study, _, spec = begun(tmp_path)
    inbox(tmp_path).put(Enqueue(GIVEN, "enqueued by hand"))
    inbox(tmp_path).put(Stop(1))
    assert coordinator.report(report(spec)) is Decision.CONTINUE
    assert coordinator.report(report(spec, 16)) is Decision.CONTINUE
    record = study.record(1)
    assert (record.state, record.params, record.attempt) == (TrialState.PRUNED, GIVEN, 0)


def test_what_is_no_command_is_put_aside(tmp_path, caplog):
    coordinator, _, _, spec = begun(tmp_path)
    box = Layout(tmp_path, "summarize").inbox
    box.mkdir(parents=True)
    bad = ["{", '{"delete": {}}', '{"stop": {"trial": -2}}', '{"stop": {"trial": 99}}',
           json.dumps({"enqueue": {"params": {"lora.rank": 9}, "origin": "me"}})]  # fmt: skip
    for index, text in enumerate(bad):
        (box / f"{index}.json").write_text(text)
    inbox(tmp_path).put(Prune(spec.trial))
    assert coordinator.report(report(spec)) is Decision.PRUNE, "the good one after them is obeyed"
    assert [path.name for path in letters(tmp_path) if path.suffix == ".refused"] == [
        f"{index}.refused" for index in range(len(bad))
    ]
    for told in ("is no command", "greater than or equal to 0", "has no trial 99", "choices 4, 8, 16, 32"):
        assert told in caplog.text


def test_four_and_four_is_eight_with_a_trial_enqueued_between(tmp_path):
    def play(folder: Path, *parts: str):
        study = None
        for number, part in enumerate(parts):
            coordinator, study, _ = open_coordinator(folder, part)
            ReplayEngine(configure(folder, part)[0], sleep=lambda _: None).run(coordinator)
            coordinator.close()
            if number == 0:
                inbox(folder).put(Enqueue(GIVEN, "enqueued by hand"))
        return study.records()

    whole = play(tmp_path / "whole", "budget.trials=2", "budget.trials=5")
    parts = play(tmp_path / "parts", "budget.trials=2", "budget.trials=4", "budget.trials=5")
    assert whole[3].params == GIVEN
    assert [(r.params, r.objective) for r in parts] == [(r.params, r.objective) for r in whole]


STEPS = ("open", "enqueue_asked", "stop", "_end_waiting")


def killed_at(step: int, folder: Path, reopen: Callable[[Path], Study]) -> bool:
    """Open the inbox in a process that is killed before line `step` of `STEPS`; False if it got through."""
    child = os.fork()
    if child == 0:
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            if frame.f_code.co_name not in STEPS or "sweeper" not in frame.f_code.co_filename:
                return None
            lines += event == "line"
            if lines == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        study = reopen(folder)
        sys.settrace(trace)
        inbox(folder).open(study, budget=8)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_every_step_a_command_is_obeyed_once(tmp_path):
    start = tmp_path / "start"
    coordinator, study, _, spec = begun(start)
    coordinator.stop("interrupted")
    coordinator.finish(outcome(spec, Ending.SUSPENDED))
    coordinator.close()
    inbox(start).put(Stop(spec.trial, "enough"))
    inbox(start).put(Enqueue(GIVEN, "enqueued by hand"))
    config, space = configure(start)

    def reopen(folder: Path) -> Study:
        layout = Layout(folder, "summarize")
        return Study.open(layout.study_url, config, space, NopPruner(), study.fingerprint, layout.folder)

    kills, was_killed = 0, True
    while was_killed:
        folder = tmp_path / "killed"
        shutil.copytree(start, folder)
        was_killed = killed_at(kills + 1, folder, reopen)
        kills += was_killed
        again = reopen(folder)
        inbox(folder).open(again, budget=8)
        stopped, enqueued = (again.record(number) for number in (0, 1))
        assert (stopped.state, stopped.reason) == (TrialState.FINISHED, "stopped by hand: enough")
        assert (enqueued.state, enqueued.origin) == (TrialState.WAITING, "enqueued by hand")
        with pytest.raises(StudyError, match="has no trial 2; its trials: 0 to 1"):
            again.state(2)
        assert letters(folder) == []
        shutil.rmtree(folder)
    assert kills > 25


def test_another_terminal_takes_effect_within_one_report(forks, tmp_path):
    sweeper = [sys.executable, "-m", "sweeper"]
    sweep = forks.start([*REPLAY, "engine.speedup=3"], tmp_path)
    seen = read_until(sweep, "Trial 0: the default settings")
    told = [
        subprocess.run(
            [*sweeper, "trials", "summarize", *words], cwd=tmp_path, capture_output=True, text=True
        )
        for words in (["enqueue", "lora.rank=16"], ["stop", "0", "too", "slow"])
    ]
    after = time.time()
    seen += read_until(sweep, "Trial 1: ")
    sweep.kill()
    sweep.communicate()
    assert [done.returncode for done in told] == [0, 0], told
    assert "this is done as the next trial" in told[0].stdout
    assert "this is done at the trial's next report" in told[1].stdout
    assert "(stopped by hand: too slow" in seen
    first, second = open_study(tmp_path / "sweeps").records()[1:]
    assert (first.state, first.reason) == (TrialState.PRUNED, "stopped by hand: too slow")
    assert (second.params["lora.rank"], second.origin) == (16, "enqueued by hand")
    points = Layout(tmp_path / "sweeps", "summarize").metrics(0).read_text().splitlines()
    assert len([point for point in points if json.loads(point)["time"] > after]) <= 1
