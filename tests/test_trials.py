"""The verb `trials` as a person uses it, on a sweep that stands still."""

import csv

import pytest

from sweeper.__main__ import main
from sweeper.config import SamplerConfig
from sweeper.inbox import Enqueue, Inbox
from sweeper.layout import Layout
from sweeper.messages import Ending, Evaluation, Outcome, Sample
from sweeper.storage import lock
from sweeper.study.study import Spent
from tests.sweeps import REPLAY, open_study


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trials(*words: str) -> int:
    return main(["trials", "summarize", *words])


def test_a_list_of_all_trials(capsys):
    main([*REPLAY, "budget.trials=4"])
    capsys.readouterr()
    assert trials() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:] if line.split()] == ["base", "0", "1", "2", "3"]
    assert "the default settings" in lines[3]
    assert "96/96" in lines[3]
    assert sum("best" in line for line in lines) == 1


def test_a_trial_that_was_left_running_is_interrupted(capsys, tmp_path):
    main([*REPLAY, "budget.trials=1"])
    open_study(tmp_path / "sweeps").propose(2, SamplerConfig("random"))
    capsys.readouterr()
    assert trials() == 0
    assert "interrupted" in capsys.readouterr().out
    assert trials("show", "1") == 0
    assert "Trial 1: interrupted" in capsys.readouterr().out


def test_the_list_for_programs_has_every_score_and_setting_in_full(capsys, tmp_path):
    main([*REPLAY, "budget.trials=4"])
    capsys.readouterr()
    assert trials("--csv") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["trial"] for row in rows} == {"base", "0", "1", "2", "3"}
    study = open_study(tmp_path / "sweeps", "budget.trials=4")
    for row in rows:
        if row["trial"] != "base":
            record = study.record(int(row["trial"]))
            assert float(row["learning_rate"]) == record.settings.learning_rate
            assert (row["lora.rank"], row["scheduler"]) == (str(record.settings.lora.rank), "linear")
            assert float(row["objective"]) == record.objective
            assert {name: float(row[name]) for name in record.metrics} == record.metrics
    assert trials("show", "1", "--csv") == 2
    assert "--csv is a form of the list" in capsys.readouterr().err


def test_one_trial_in_full(capsys, tmp_path):
    main([*REPLAY, "budget.trials=1"])
    folder = tmp_path / "sweeps"
    study = open_study(folder, "budget.trials=1")
    study.enqueue_asked(study.space.point({"lora.rank": 16}), "a clone of trial 0", "letter", 2)
    study.propose(2, SamplerConfig("random"))
    study.set_examples(1, 96)
    study.report(1, 48, 0.25)
    study.report(1, 96, 0.3)
    best = Evaluation(96, 0.3, 0.02, {"rougeL": 0.3, "loss": 1.5}, errors={"rougeL": 0.02})
    adapter = folder / "summarize" / "trials" / "0001" / "attempt-1" / "best"
    samples = (Sample("r1", "Say it.", "It.", "That."),)
    outcome = Outcome(
        1,
        1,
        Ending.FINISHED,
        96,
        "test",
        "",
        best,
        adapter,
        {"train_seconds": 4.0},
        ("it overfits",),
        samples,
    )
    study.finish(outcome, Spent(96, 10.0, 1))
    capsys.readouterr()
    assert trials("show", "1") == 0
    out = capsys.readouterr().out
    for told in (
        "Trial 1: finished", "a clone of trial 0", "lora.rank*", "16", "after 48 examples  0.25",
        "after 96 examples  0.3  best", "rougeL  0.3 ± 0.02", "train_seconds", "10.0 s",
        "Warning: it overfits", f"Adapter: {adapter.relative_to(tmp_path)}", "Output:    That.",
    ):  # fmt: skip
        assert told in out
    assert trials("show", "7") == 2
    assert "has no trial 7; its trials: 0 to 1" in capsys.readouterr().err


def test_on_a_stopped_sweep_commands_lie_until_its_next_start(capsys, tmp_path):
    main([*REPLAY, "budget.trials=4"])
    capsys.readouterr()
    config = tmp_path / "sweeps" / "summarize" / "config.yaml"
    config.write_text(config.read_text().replace("trials: 4", "trials: 6"))
    assert trials("clone", "2", "learning_rate=3e-4") == 0
    assert "this is done when its command is run again" in capsys.readouterr().out
    trials()
    assert "Not done yet: Train learning_rate=0.0003" in capsys.readouterr().out
    assert main([*REPLAY, "budget.trials=5"]) == 0
    assert "Trial 4: learning_rate=0.0003" in capsys.readouterr().out
    trials()
    out = capsys.readouterr().out
    assert "a clone of trial 2 with learning_rate=3e-4" in out
    assert "Not done yet" not in out


def test_a_used_up_budget_is_told(capsys):
    main([*REPLAY, "budget.trials=4"])
    for needed in (5, 6):
        capsys.readouterr()
        assert trials("enqueue", "lora.rank=16") == 0
        told = f"That makes {needed} trials and the budget is 4: it waits for a run with "
        assert f"{told}budget.trials={needed} or more" in capsys.readouterr().out
    assert main([*REPLAY, "budget.trials=4"]) == 0
    assert "Sweep summarize is complete" in capsys.readouterr().out


def test_on_a_running_sweep_they_are_done_at_once(capsys, tmp_path):
    main([*REPLAY, "budget.trials=1"])
    layout = Layout(tmp_path / "sweeps", "summarize")
    layout.config.write_text(layout.config.read_text().replace("trials: 1", "trials: 3"))
    with lock.hold(layout):
        assert trials("enqueue") == 0
    assert "The sweep is running: this is done as the next trial" in capsys.readouterr().out
    (command,) = Inbox(layout).waiting()
    assert isinstance(command, Enqueue)


def test_what_is_refused_leaves_no_letter(capsys, tmp_path):
    main([*REPLAY, "budget.trials=1"])
    for words in (["stop", "0"], ["enqueue", "lora.rank=9"], ["dance"]):
        assert trials(*words) == 2
    assert Inbox(Layout(tmp_path / "sweeps", "summarize")).waiting() == []
    assert main(["trials", "other"]) == 2
    assert "no sweep `other`" in capsys.readouterr().err
