"""The verb `train`: the winner on all rows, beside the sweep, to be continued like one."""

import json
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.errors import StudyError
from sweeper.inbox import Enqueue, Inbox
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.storage import lock
from sweeper.stored import names, stored
from sweeper.study.study import Study
from sweeper.verbs.retrain import retraining
from tests import tiny
from tests.processes import read_until
from tests.sweeps import REPLAY, open_study

SMALL = (
    "+experiment=summarize", "model=custom", "model.name=model", "model.device=cpu",
    "model.dtype=float32", "data=file", "data.path=rows.jsonl", "data.group=group", "data.cleaning=[]",
    "data.keep_together=false", "data.audit.fail_on=never", "data.sizes={train: 16, validation: 8, test: 8}",
    "task.generation.max_new_tokens=2", "budget.trials=1", "tracking=none",
)  # fmt: skip
LAYOUT = Layout(Path("sweeps"), "summarize")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_winner_is_trained_on_all_rows_at_full_length():
    main([*REPLAY, "budget.trials=4", "budget.minutes=9", "data.sizes.train=40"])
    best = stored(LAYOUT)[1].best()
    plan = retraining(LAYOUT)
    assert plan.winner == best
    assert plan.config.trial == best.settings
    assert plan.config.data.sizes.train is None
    assert plan.space.is_empty
    assert plan.config.pruner.name == "none"
    assert (plan.config.budget.trials, plan.config.budget.minutes) == (1, None)
    assert plan.config.tracking.experiment == "summarize"


def test_one_trial_with_its_settings_and_again_its_result(capsys):
    main([*REPLAY, "budget.trials=4"])
    best = stored(LAYOUT)[1].best()
    capsys.readouterr()
    assert main(["train", "summarize"]) == 0
    out = capsys.readouterr().out
    assert f"Training with the settings of trial {best.number} (rougeL 0." in out
    assert f"Trial 0: the settings of trial {best.number}" in out
    assert "default settings" not in out
    assert "python -m sweeper show summarize/train" in out
    base, trial = stored(LAYOUT.training)[1].records()
    assert (base.number, trial.state, trial.retrains) == (BASE, TrialState.FINISHED, best.number)
    assert trial.settings == best.settings
    assert main(["train", "summarize"]) == 0
    again = capsys.readouterr().out
    assert "summarize/train is complete" in again
    assert "Trial 0: " not in again


def test_it_is_listed_shown_and_deleted_with_its_sweep(capsys):
    main([*REPLAY, "budget.trials=2"])
    main(["train", "summarize"])
    assert names(LAYOUT.root) == ["summarize", "summarize/train"]
    shown = {"list": "summarize/train", "show summarize/train": "Sweep summarize/train",
             "trials summarize/train show 0": "Trial 0: finished"}  # fmt: skip
    for line, told in shown.items():
        capsys.readouterr()
        assert main(line.split()) == 0
        assert told in capsys.readouterr().out
    assert main(["delete", "summarize/train", "--yes"]) == 0
    assert Study.names(LAYOUT.study_url) == names(LAYOUT.root) == ["summarize"]
    main(["train", "summarize"])
    assert main(["delete", "summarize", "--yes"]) == 0
    assert Study.names(LAYOUT.study_url) == names(LAYOUT.root) == []


def test_killed_it_goes_on_where_it_was(forks, tmp_path):
    main([*REPLAY, "budget.trials=2"])
    LAYOUT.config.write_text(LAYOUT.config.read_text().replace("speedup: 1000000.0", "speedup: 20.0"))
    first = forks.start(["train", "summarize"], tmp_path)
    read_until(first, "after 48 examples")
    first.kill()
    first.communicate()
    second = forks.start(["train", "summarize"], tmp_path)
    told = second.communicate(timeout=120)[0]
    assert second.returncode == 0, told
    _, trial = stored(LAYOUT.training)[1].records()
    assert (trial.state, trial.attempt) == (TrialState.FINISHED, 2)
    points = [json.loads(line) for line in LAYOUT.training.metrics(0).read_text().splitlines()]
    assert min(point["examples"] for point in points if point["attempt"] == 2) >= 48


def test_another_winner_needs_room(capsys):
    main([*REPLAY, "budget.trials=1"])
    main(["train", "summarize"])
    better = {"learning_rate": 2e-3, "batch_size": 8, "lora.rank": 32, "lora.dropout": 0.0}
    Inbox(LAYOUT).put(Enqueue(better, "enqueued by hand"))
    main([*REPLAY, "budget.trials=2"])
    capsys.readouterr()
    assert main(["train", "summarize"]) == 2
    err = capsys.readouterr().err
    assert "`summarize/train` has the settings of trial 0, and trial 1 is the best by now" in err
    assert "python -m sweeper delete summarize/train" in err


def test_without_a_winner_or_while_the_sweep_runs_it_is_refused(capsys, tmp_path):
    assert main(["train", "summarize"]) == 2
    assert "no sweep `summarize` in sweeps/" in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()
    main([*REPLAY, "budget.trials=1"])
    with lock.hold(LAYOUT):
        assert main(["train", "summarize"]) == 2
    assert "sweep `summarize` is being run by process" in capsys.readouterr().err
    text = LAYOUT.config.read_text()
    open_study(tmp_path / "empty")
    empty = Layout(tmp_path / "empty", "summarize")
    empty.folder.mkdir()
    empty.config.write_text(text)
    with pytest.raises(StudyError, match="No trial has finished, so there is no best one"):
        retraining(empty)


def test_a_tracking_secret_is_asked_for(monkeypatch):
    main([*REPLAY, "budget.trials=1"])
    text = LAYOUT.config.read_text()
    LAYOUT.config.write_text(text.replace("uri: null", "uri: http://me:***@127.0.0.1:1"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StudyError, match="is not stored; set MLFLOW_TRACKING_URI to the whole URI"):
        retraining(LAYOUT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    assert retraining(LAYOUT).config.tracking.uri == "http://me:secret@127.0.0.1:1"


def test_a_model_is_trained_on_the_rows_that_the_sweep_left_out(tmp_path):
    tiny.save(tiny.llama(), tmp_path / "model")
    words = tiny.WORDS
    rows = [
        {"input": f"{words[i % 12]} {words[i // 12]}", "target": words[i % 7], "group": f"g{i % 20}"}
        for i in range(100)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with tiny.one_thread():
        assert main(SMALL) == 0
        assert main(["train", "summarize"]) == 0
    _, trial = stored(LAYOUT.training)[1].records()
    few, every = (
        json.loads((one.rows / "manifest.json").read_text())["splits"] for one in (LAYOUT, LAYOUT.training)
    )
    assert few["train"]["rows"] == 16
    assert every["train"]["rows"] == trial.examples > 40
    assert every["validation"] == few["validation"]
    assert every["test"] == few["test"]
    assert (LAYOUT.training.best / "adapter_model.safetensors").is_file()
