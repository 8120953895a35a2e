"""Mending: after a kill, after an MLflow that was away, and what is too far gone."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.errors import StudyError
from sweeper.layout import Layout
from sweeper.messages import TrialState
from sweeper.storage import lock
from sweeper.storage.database import damage
from sweeper.study.study import Study
from sweeper.tracking.store import client_of, quiet_mlflow
from sweeper.tracking.ui import ui_command, ui_environment
from tests.processes import read_until
from tests.sweeps import JUDGED, REPLAY


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "sweeps", "summarize")


def run(layout: Layout, *overrides: str) -> int:
    return main([*overrides, f"sweep.folder={layout.root}"])


def repair(layout: Layout) -> int:
    return main(["repair", layout.name, "--folder", str(layout.root)])


def stored(layout: Layout) -> Study:
    return Study.read(layout.study_url, layout.name, layout.folder)


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    folder.mkdir()
    process = subprocess.Popen(
        ui_command(Layout(folder, "any"), port),
        cwd=folder,
        env=ui_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def told_by_mlflow(layout: Layout, uri: str) -> dict[str, tuple[str, str, dict[str, int]]]:
    """Every run by name: its id, its status, and how many points each of its curves has."""
    quiet_mlflow()
    client = client_of(uri)
    experiments = [one.experiment_id for one in client.search_experiments() if one.name == layout.name]
    found = client.search_runs(experiments)
    told = {
        run.info.run_name: (
            run.info.run_id,
            run.info.status,
            {key: len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics},
        )
        for run in found
    }
    assert len(told) == len(found), "no run is there twice"
    return told


def test_a_server_that_was_away_for_a_whole_sweep_is_told_everything_once(layout, tmp_path, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    assert run(layout, *REPLAY, "tracking=mlflow", f"tracking.uri={uri}", "budget.trials=3") == 0
    study = stored(layout)
    assert {record.state for record in study.records()} <= {TrialState.FINISHED, TrialState.PRUNED}
    assert repair(layout) == 2
    assert "Nothing is lost: have it running, then repair again" in capsys.readouterr().err

    with mlflow_server(tmp_path / "server", port):
        assert repair(layout) == 0
        shown = capsys.readouterr().out
        assert f"Telling MLflow at {uri} what it may have missed" in shown
        assert "MLflow has 4 trials and runs that are over" in shown
        told = told_by_mlflow(layout, uri)
        assert repair(layout) == 0
        assert told_by_mlflow(layout, uri) == told, "nothing is doubled"
    assert len(told) == 5
    assert {status for _, status, _ in told.values()} == {"FINISHED"}
    _, _, curves = told["trial 0 (defaults)"]
    assert (curves["objective"], curves["train_loss"], curves["best_objective"]) == (2, 8, 1)


def test_a_database_of_mlflow_that_was_deleted_is_written_anew_with_the_verdict(layout, capsys):
    assert run(layout, *JUDGED, "tracking=mlflow", "budget.trials=3", "budget.seeds=2") == 0
    before = told_by_mlflow(layout, layout.tracking_url)
    assert sum(name.startswith("verdict") for name in before) >= 4
    for path in layout.root.glob("mlflow.db*"):
        path.unlink()
    assert repair(layout) == 0
    after = told_by_mlflow(layout, layout.tracking_url)
    assert {name: found[1:] for name, found in after.items()} == {
        name: found[1:] for name, found in before.items()
    }


def test_trials_that_a_kill_left_running_wait_again(forks, layout, tmp_path, capsys):
    process = forks.start([*REPLAY, "engine.speedup=20", f"sweep.folder={layout.root}"], tmp_path)
    read_until(process, "after 48 examples")
    assert repair(layout) == 2
    assert f"is being run by process {process.pid} on {os.uname().nodename}" in capsys.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    study = stored(layout)
    assert study.record(0).state is TrialState.RUNNING
    assert repair(layout) == 0
    shown = capsys.readouterr().out
    assert "study.db: sound" in shown
    assert "Trials of summarize that were left running, and wait now: 0\n" in shown
    assert "MLflow: not used (tracking=none)" in shown
    assert study.record(0).state is TrialState.WAITING
    assert not lock.is_held(layout)
    assert run(layout, *REPLAY, "budget.trials=1") == 0
    assert study.record(0).attempt == 2


def tear(path: Path) -> None:
    """Overwrite pages behind the first one, as a failing disk does."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("rb+") as file:
        file.seek(4096)
        file.write(os.urandom(8 * 4096))


@pytest.mark.parametrize(
    ("name", "way_out"), [("study.db", "save what can be read"), ("mlflow.db", "repair every sweep in")]
)
def test_a_damaged_database_is_named(layout, capsys, name, way_out):
    run(layout, *REPLAY, "budget.trials=1")
    text = layout.config.read_text().replace("tracking:\n  name: none", "tracking:\n  name: mlflow")
    layout.config.write_text(text)
    if name == "mlflow.db":
        shutil.copy(layout.root / "study.db", layout.root / name)
    capsys.readouterr()
    tear(layout.root / name)
    assert repair(layout) == 2
    told = capsys.readouterr().err
    assert f"{name} is damaged (" in told
    assert way_out in told


def test_a_database_that_cannot_be_looked_at_is_not_called_damaged(tmp_path):
    path = tmp_path / "study.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyError, match=r"study.db can't be looked at \(database is locked\)"):
            damage(path, patience=0.1)
        other.execute("COMMIT")
    assert damage(path) == ""
    with pytest.raises(StudyError, match=r"nothing.db can't be looked at \(unable to open database file\)"):
        damage(tmp_path / "nothing.db")


def test_a_sweep_that_is_not_there(capsys):
    assert main(["repair", "nothing"]) == 2
    assert "no sweep `nothing` in" in capsys.readouterr().err
