"""One study carried to its end: what listeners hear, how it is left, what is saved."""

import os
import signal
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from sweeper.inputs import Inputs
from sweeper.launch import clear_away, launch, save_best, sweep_info
from sweeper.layout import Layout
from sweeper.messages import BASE
from sweeper.preemption import STOPPING
from sweeper.terminal.screen import Screen
from tests.sweeps import configure, open_study


class Listening(Screen):
    """A screen that keeps the reason for the end and may send a signal when a trial starts."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__(Console(file=StringIO()))
        self.signal, self.reason = number, ""

    def started(self, trial):
        super().started(trial)
        if self.signal is not None and trial.number == 0:
            os.kill(os.getpid(), self.signal)

    def closed(self, trials, best, reason):
        self.reason = reason


def launched(folder, screen, *overrides, conclude=lambda: ""):
    config, _ = configure(folder, "budget.trials=2", *overrides)
    study, layout = open_study(folder, "budget.trials=2", *overrides), Layout(folder, "summarize")
    inputs = Inputs(config, 96, "replayed curves", (), {"rows": 96})
    info = sweep_info(study, config, layout, inputs)
    return launch(study, inputs, info, layout, screen, conclude), study


def test_it_ends_when_the_budget_is_used(tmp_path):
    screen = Listening()
    end, study = launched(tmp_path, screen)
    assert (end.reason, end.interrupted, end.failures) == ("", False, ())
    assert [record.number for record in study.records()] == [BASE, 0, 1]
    assert screen.reason == "finished"
    assert "Trained by 1 worker, in this process\n" in screen.console.file.getvalue()
    assert (tmp_path / "summarize" / "trials" / "0001" / "metrics.jsonl").exists()


def test_what_is_concluded_is_what_listeners_hear(tmp_path):
    screen = Listening()
    launched(tmp_path, screen, conclude=lambda: "Trial 1 is the better one.")
    assert screen.reason == "Trial 1 is the better one."


@pytest.mark.parametrize("how", STOPPING)
def test_a_signal_suspends_what_runs_and_the_old_handlers_come_back(tmp_path, how):
    before = [signal.getsignal(number) for number in STOPPING]
    end, study = launched(tmp_path, Listening(how))
    assert end.interrupted
    assert end.reason == f"interrupted ({how.name})"
    assert not study.record(0).state.is_over
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_failures_in_a_row_are_handed_over(tmp_path):
    bad = ["space=empty", "+space.learning_rate={low: 0.06, high: 1.0, log: true}", "trial.learning_rate=0.1"]
    end, _ = launched(tmp_path, Listening(), *bad, "budget.failures_in_row=2")
    assert [record.number for record in end.failures] == [0, 1]
    assert not end.interrupted


def test_the_best_adapter_takes_the_place_of_an_earlier_one(tmp_path):
    _, study = launched(tmp_path, Listening())
    layout, best = Layout(tmp_path, "summarize"), study.best()
    save_best(study, layout)
    assert not layout.best.exists(), "a replayed trial has no adapter"
    layout.best.mkdir()
    (layout.best / "old.safetensors").touch()
    adapter = layout.trial(best.number) / "attempt-1" / "best"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    study.best = lambda: replace(best, adapter=adapter)
    save_best(study, layout)
    assert [path.name for path in layout.best.iterdir()] == ["adapter_model.safetensors"]


def test_a_sweep_counts_the_runs_of_its_verdict_and_a_verdict_has_none(tmp_path):
    config, _ = configure(tmp_path)
    study, layout = open_study(tmp_path), Layout(tmp_path, "summarize")
    assert sweep_info(study, config, layout).verdict_runs == 0
    judged = replace(config, verdict=replace(config.verdict, name="holdout"))
    info = sweep_info(study, judged, layout)
    assert (info.verdict_runs, info.is_verdict) == (6, False)
    one_seed = replace(judged, budget=replace(judged.budget, seeds=1))
    assert sweep_info(study, one_seed, layout).verdict_runs == 0
    info = sweep_info(study, judged, layout.verdict)
    assert (info.verdict_runs, info.is_verdict) == (0, True)


def test_checkpoints_of_trials_that_are_over_are_cleared_away(tmp_path):
    _, study = launched(tmp_path, Listening())
    study.enqueue(study.record(1).params, 1, 1)  # one that waits
    layout = Layout(tmp_path, "summarize")
    folders = [layout.trial(number) / "attempt-1" / "step-000003" for number in (0, 1, 2)]
    for folder in folders:
        folder.mkdir(parents=True)
    clear_away(study, layout)
    assert [folder.exists() for folder in folders] == [False, False, True]
