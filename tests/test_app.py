"""The command line as a person uses it, over the replay engine."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from sweeper.__main__ import main
from sweeper.layout import Layout
from sweeper.storage import lock
from sweeper.storage.database import open_storage
from sweeper.study.study import Study
from tests import tiny
from tests.sweeps import REPLAY

QUICK = (*REPLAY, "budget.trials=4")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_sweep_prints_its_trials_and_its_result(capsys):
    assert main(QUICK) == 0
    out = capsys.readouterr().out
    assert "Measuring the untouched base model" in out
    assert "Trial 0: the default settings" in out
    assert "to go, less where trials are pruned" in out
    assert "than the default settings" in out or "The default settings themselves" in out
    assert "than the untouched base model" in out
    assert out.splitlines()[-2] == "Look further: python -m sweeper show summarize", "no UI over nothing"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("null", "python -m sweeper ui"),
        ("http://me:hush@127.0.0.1:1", "MLflow: http://me:***@127.0.0.1:1"),
        ("databricks", "MLflow: databricks"),
    ],
)
def test_what_was_tracked_is_shown_where_it_is(capsys, tmp_path, uri, told):
    main(QUICK)
    config = tmp_path / "sweeps" / "summarize" / "config.yaml"
    text = config.read_text().replace("tracking:\n  name: none", "tracking:\n  name: mlflow")
    config.write_text(text.replace("uri: null", f"uri: {uri}"))
    capsys.readouterr()
    assert main(["show", "summarize"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown == f"Look further: python -m sweeper show summarize   {told}"


@pytest.mark.parametrize("uri", ["foo", "mlruns/", "file:///tmp/mlruns", "ftp://me:hush@x/y", "http:/x"])
def test_what_mlflow_cannot_use_is_refused_before_anything_is_done(uri, capsys):
    assert main([*QUICK, "tracking=mlflow", f"tracking.uri='{uri}'"]) == 2
    told = capsys.readouterr().err
    assert "tracking.uri: is nothing that MLflow can use" in told
    assert "begins with one of http, https, databricks, sqlite, postgresql" in told
    assert "hush" not in told
    assert not Path("sweeps").exists()


def test_a_finished_sweep_prints_its_result_again_and_more_trials_continue_it(capsys):
    main(QUICK)
    first = capsys.readouterr().out
    assert main(QUICK) == 0
    again = capsys.readouterr().out
    assert "Sweep summarize is complete" in again
    assert "Trial 0" not in again
    assert first.splitlines()[-12:-3] == again.splitlines()[-12:-3], "the same table"
    assert main([*QUICK, "budget.trials=6"]) == 0
    assert "Going on: 4 of 6 trials are done" in capsys.readouterr().out


def test_list_show_delete(capsys, tmp_path, monkeypatch):
    assert main(["list"]) == 0
    assert "No sweep in sweeps/ yet" in capsys.readouterr().out
    main(QUICK)
    main([*QUICK, "sweep.name=other"])
    capsys.readouterr()
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "summarize" in listed
    assert "4/4" in listed
    assert "complete" in listed
    assert "replayed" in listed, "a rehearsal has trained nothing"
    assert main(["show", "other"]) == 0
    assert "Sweep other" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["delete", "other"]) == 2
    again = "nothing was deleted; without a question: python -m sweeper delete other --yes"
    assert again in capsys.readouterr().err
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    assert main(["delete", "other"]) == 1
    assert (tmp_path / "sweeps" / "other").exists()
    assert main(["delete", "other", "--yes"]) == 0
    assert not (tmp_path / "sweeps" / "other").exists()
    capsys.readouterr()
    main(["list"])
    assert "other" not in capsys.readouterr().out


def test_what_a_refused_start_leaves_is_listed_and_can_be_deleted(capsys, tmp_path):
    line = ["+experiment=summarize", "model=custom", "model.name=./nowhere"]
    assert main(line) == 2
    assert main(["list"]) == 0
    assert "summarize refused before its first trial" in " ".join(capsys.readouterr().out.split())
    assert main(["delete", "summarize"]) == 0
    assert "Deleted summarize, in which nothing was trained." in capsys.readouterr().out
    assert not (tmp_path / "sweeps" / "summarize").exists()
    assert main(["delete", "summarize", "--yes"]) == 2


def test_a_damaged_sweep_hides_no_other_and_can_be_deleted(capsys, tmp_path):
    main(QUICK)
    main([*QUICK, "sweep.name=lost"])
    main([*QUICK, "sweep.name=torn"])
    Study.delete("sqlite:///sweeps/study.db", "lost")
    (tmp_path / "sweeps" / "torn" / "config.yaml").write_text("sweep: [")
    capsys.readouterr()
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "4/4" in listed
    assert listed.count("unreadable") == 2
    assert "torn/config.yaml is damaged; run the sweep's command again" in listed
    assert main(["delete", "lost", "--yes"]) == 0
    assert not (tmp_path / "sweeps" / "lost").exists()


def test_a_stored_password_is_asked_for(capsys, tmp_path):
    main(QUICK)
    config = tmp_path / "sweeps" / "summarize" / "config.yaml"
    config.write_text(config.read_text().replace("study: null", "study: postgresql://me:***@host/db"))
    assert main(["show", "summarize"]) == 2
    assert "needs its password: set SWEEPER_STUDY" in capsys.readouterr().err


def test_a_tracking_secret_is_not_made_up(capsys, tmp_path):
    main(QUICK)
    config = tmp_path / "sweeps" / "summarize" / "config.yaml"
    text = config.read_text().replace("tracking:\n  name: none", "tracking:\n  name: mlflow")
    config.write_text(text.replace("uri: null", "uri: http://me:***@127.0.0.1:1"))
    assert main(["delete", "summarize", "--yes"]) == 0
    assert "stay: the secret in that URI is not stored" in capsys.readouterr().out
    assert not (tmp_path / "sweeps" / "summarize").exists()


def test_a_sweep_of_a_configuration_that_is_refused_by_now_can_be_deleted(capsys, tmp_path):
    main(QUICK)
    config = tmp_path / "sweeps" / "summarize" / "config.yaml"
    text = config.read_text()
    assert "name: HuggingFaceTB/SmolLM2-135M-Instruct" in text
    config.write_text(text.replace("name: HuggingFaceTB/SmolLM2-135M-Instruct", "name: gpt2"))
    assert main(["show", "summarize"]) == 2
    assert main(["delete", "summarize", "--yes"]) == 0
    assert not (tmp_path / "sweeps" / "summarize").exists()


def test_a_start_that_was_killed_leaves_no_trace(capsys):
    open_storage("sqlite:///sweeps/study.db")
    optuna.create_study(storage=open_storage("sqlite:///sweeps/study.db"), study_name="summarize")
    assert main(QUICK) == 0
    assert "Trial 0: the default settings" in capsys.readouterr().out


def test_a_foreign_study_is_left_alone(capsys):
    storage = open_storage("sqlite:///sweeps/study.db")
    optuna.create_study(storage=storage, study_name="summarize").ask()
    assert main(QUICK) == 2
    assert "`summarize` in sqlite:///sweeps/study.db was not made by sweeper" in capsys.readouterr().err


def test_trained_and_replayed_trials_do_not_mix(capsys):
    main(QUICK)
    assert main(["+experiment=summarize", "budget.trials=5", "tracking=none"]) == 2
    assert "replayed: true in the study, false now" in capsys.readouterr().err


def test_bad_curves_are_refused_before_anything_is_written(capsys, tmp_path):
    assert main([*QUICK, "engine.curves=nowhere.jsonl"]) == 2
    assert "there is no file nowhere.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "sweeps" / "study.db").exists()


def test_two_folders_may_share_a_study_but_not_a_sweep(capsys, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with lock.hold(Layout(tmp_path / "a", "summarize"), url):
        assert main([*QUICK, "sweep.folder=b", f"sweep.study={url}"]) == 2
    assert f"sweep `summarize` is being run by process {os.getpid()} on" in capsys.readouterr().err


def test_unknown_sweeps_are_named_with_the_known_ones(capsys):
    main(QUICK)
    assert main(["show", "sumarize"]) == 2
    assert "no sweep `sumarize` in sweeps/; known sweeps: summarize" in capsys.readouterr().err


def test_ui_without_a_database_says_so(capsys):
    assert main(["ui"]) == 2
    assert "there is no sweeps/mlflow.db; run a sweep with tracking=mlflow first" in capsys.readouterr().err


def test_a_run_ends_with_its_report_and_the_verb_writes_it_anew(capsys, tmp_path):
    assert main(QUICK) == 0
    assert "Report: sweeps/summarize/report.html" in capsys.readouterr().out
    page = tmp_path / "sweeps" / "summarize" / "report.html"
    page.unlink()
    assert main(["report", "summarize"]) == 0
    assert capsys.readouterr().out == "Report: sweeps/summarize/report.html\n", "no adapter, no card"
    assert "<title>Report of summarize</title>" in page.read_text()
    page.unlink()
    assert main(QUICK) == 0
    assert page.exists(), "a complete sweep gets one too"


def test_a_sweep_that_failed_has_a_report(capsys, tmp_path):
    bad = ["space=empty", "+space.learning_rate={low: 0.06, high: 1.0, log: true}", "trial.learning_rate=0.1"]
    assert main([*REPLAY, *bad]) == 1
    assert "the loss became NaN" in (tmp_path / "sweeps" / "summarize" / "report.html").read_text()


def test_a_card_that_would_lack_something_is_refused_and_the_report_written(capsys, tmp_path):
    main(QUICK)
    folder = tmp_path / "sweeps" / "summarize"
    (folder / "best").mkdir()
    (folder / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", "summarize"]) == 1
    assert "the model card of summarize would lack: data (rows/ is damaged" in capsys.readouterr().err
    assert (folder / "report.html").exists()
    assert main(QUICK) == 0
    assert "Warning: the model card of summarize would lack" in capsys.readouterr().out


def test_every_fault_is_reported_together_with_exit_code_2(capsys, tmp_path):
    code = main(
        [*QUICK, "data.sizes.validation=0", "task.objective.metric=f1", "space.batch_size.choices=[]"]
    )
    assert code == 2
    err = capsys.readouterr().err
    assert "3 faults in the configuration" in err
    for field in ("data.sizes.validation", "task.objective.metric", "space.batch_size"):
        assert field in err
    assert not (tmp_path / "sweeps").exists(), "nothing is written for a bad configuration"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["lst"], "unknown command `lst`; did you mean `list`? Overrides have the form name=value."),
        (["stop", "summarize", "3"], "unknown command `stop`; did you mean `trials NAME stop`? Overrides"),
        (["sumarize"], "unknown command `sumarize`; did you mean `+experiment=summarize`? Overrides"),
        (["xyz", "--help"], "unknown command `xyz`; see python -m sweeper --help. Overrides have the form"),
        (["http://me:hush@x"], "unknown command `http://me:***@x`; see"),
        (["run", "lst"], "1 fault in the command\n  lst: is no override (name=value); see python"),
    ],
)
def test_a_word_that_is_no_verb_and_no_override(capsys, line, message):
    assert main(line) == 2
    assert f"sweeper: {message}" in capsys.readouterr().err


def test_a_changed_setting_is_refused(capsys):
    main(QUICK)
    assert main([*QUICK, "trial.learning_rate=3e-4"]) == 2
    err = capsys.readouterr().err
    assert "trial.learning_rate: 0.0002 in the study, 0.0003 now" in err
    assert "sweep.name=summarize_2" in err


def test_failures_in_a_row_end_with_exit_code_1(capsys):
    bad = ["space=empty", "+space.learning_rate={low: 0.06, high: 1.0, log: true}", "trial.learning_rate=0.1"]
    assert main([*REPLAY, *bad]) == 1
    err = capsys.readouterr().err
    assert "3 trials failed in a row. They failed all for the same reason: the loss became NaN" in err


def test_where_no_trial_meets_the_constraints_the_nearest_is_told(capsys, tmp_path):
    bound = "task.constraints=[{metric: exact_match, at_least: 0.9}]"
    assert main([*QUICK, bound, "pruner=none"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "The best trial has to meet exact_match ≥ 0.9" in out
    assert "No finished trial meets the constraints, so there is no best one. Trial " in out
    assert "came nearest: exact_match 0." in out
    assert "misses ≥ 0.9 by 0." in out
    assert "Best:" not in out
    assert not (tmp_path / "sweeps" / "summarize" / "best").exists()
    assert main(["list"]) == 0
    assert main([*QUICK, bound, "pruner=none"]) == 1, "nor when it is asked for again"
    assert main([*QUICK, bound.replace("0.9", "0.8")]) == 2
    assert (
        "task.constraints: [{metric: exact_match, at_least: 0.9}] in the study, [{" in capsys.readouterr().err
    )


def test_the_adapter_of_a_violator_is_not_exported(capsys, tmp_path):
    tiny.save(tiny.llama(), tmp_path / "model")
    words = [f"{one} {two} {three}" for one in tiny.WORDS for two in tiny.WORDS for three in tiny.WORDS]
    rows = [{"text": f"{text} {text}", "summary": text} for text in words[::20]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sweep = [
        *("+experiment=summarize", "tracking=none", "pruner=none", "sampler=random", "budget.trials=3"),
        *("model=custom", "model.name=model", "model.device=cpu", "model.dtype=float32"),
        *("data=file", "data.path=rows.jsonl", "data.input=text", "data.target=summary"),
        *("data.sizes={train: 24, validation: 12, test: 6}", "data.keep_together=false"),
        *("task.objective={metric: loss, direction: minimize}", "task.generation.max_new_tokens=4"),
        "task.evaluation.marks_per_epoch=1",
    ]

    def best_of(name: str) -> tuple[float, bytes, bytes]:
        """The length ratio of a sweep's best trial, its weights, and those that were exported."""
        folder = tmp_path / "sweeps" / name
        best = Study.read("sqlite:///sweeps/study.db", name, folder).best()
        weights, exported = (
            (place / "adapter_model.safetensors").read_bytes() for place in (best.adapter, folder / "best")
        )
        return best.metrics["length_ratio"], weights, exported

    with tiny.one_thread():
        assert main(sweep) == 0
        short, rejected, _ = best_of("summarize")
        least = short + 0.5
        bound = f"task.constraints=[{{metric: length_ratio, at_least: {least}}}]"
        assert main([*sweep, "sweep.name=bound", bound]) == 0
    long, weights, exported = best_of("bound")
    assert long >= least
    assert exported == weights != rejected
    assert "violates" in capsys.readouterr().out


def test_a_sweep_stored_without_these_fields_is_shown(capsys, tmp_path):
    main(QUICK)
    config = tmp_path / "sweeps" / "summarize" / "config.yaml"
    text = config.read_text()
    for line in ("  also: []\n", "  constraints: []\n", "  grace_seconds: 25.0\n"):
        assert line in text
        text = text.replace(line, "")
    config.write_text(text)
    capsys.readouterr()
    assert main(["show", "summarize"]) == 0
    assert "Best: trial" in capsys.readouterr().out


def test_cfg_prints_the_configuration_without_passwords(capsys):
    assert main(["--cfg", *QUICK, "sweep.study=postgresql+psycopg://me:s3cret@host/db"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate: 0.0002" in out
    assert "me:***@host/db" in out
    assert "s3cret" not in out


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert "experiments: classify, dialogsum, generate, instruct, summarize" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sweeper 0.")


@pytest.mark.parametrize("line", [["audit", "--help"], ["run", "-h"], ["--cfg", "--help"], ["a.b=1", "-h"]])
def test_help_on_verbs_that_take_overrides(capsys, line):
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("usage: python -m sweeper +experiment=NAME")


def test_help_imports_nothing_heavy():
    code = "import sys; from sweeper.__main__ import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    for module in ("torch", "transformers", "mlflow", "optuna", "hydra"):
        assert f"'{module}'" not in done.stdout


def test_a_name_with_a_slash_at_its_end_is_no_sweep(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*REPLAY, "budget.trials=1", "verdict=none"]) == 0
    assert main(["delete", "summarize/", "--yes"]) == 2
    assert "no sweep `summarize/` in sweeps/; known sweeps: summarize" in capsys.readouterr().err
    assert main(["delete", "summarize", "--yes"]) == 0
    assert not [path for path in Path("sweeps").glob("*summarize*") if path.is_dir()]


def test_names_of_what_all_sweeps_share_are_refused(capsys):
    assert main([*REPLAY, "sweep.name=artifacts"]) == 2
    assert "sweep.name: is a file or folder of all sweeps" in capsys.readouterr().err


def test_a_grid_that_is_used_up_is_over(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = ["sampler=grid", "space=empty", "+space.batch_size={choices: [4, 8]}", "verdict=none"]
    assert main([*REPLAY, *grid]) == 0
    capsys.readouterr()
    assert main([*REPLAY, *grid]) == 0
    assert "Sweep summarize is complete" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert "complete" in capsys.readouterr().out


def test_options_may_stand_before_the_words_of_trials(capsys, tmp_path):
    assert main([*REPLAY, "budget.trials=1", "verdict=none", f"sweep.folder={tmp_path}"]) == 0
    capsys.readouterr()
    assert main(["trials", "summarize", "--folder", str(tmp_path), "show", "0"]) == 0
    assert "Trial 0: finished" in capsys.readouterr().out


def test_a_terminal_in_ascii_shows_what_it_can(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    overrides = [*REPLAY, "budget.trials=2"]
    command = [sys.executable, "-m", "sweeper", *overrides]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, "UnicodeEncodeError" in done.stderr) == (0, False)
    assert "rougeL" in done.stdout
