"""Study and MLflow on a PostgreSQL server: a real one, which ends and comes back."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.errors import StorageError, StudyError
from sweeper.layout import Layout
from sweeper.messages import BASE
from sweeper.storage import lock, postgres
from sweeper.storage.database import open_storage
from sweeper.storage.postgres import SessionLock, alone, holding, with_driver
from sweeper.study.study import Study
from sweeper.tracking.store import client_of, quiet_mlflow
from tests.forks import Running
from tests.postgres import PASSWORD, Server
from tests.processes import read_until
from tests.sweeps import REPLAY

pytestmark = pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
"""The pools of SQLAlchemy leave it to the end of the process to close what they hold."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def url(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of an empty database."""
    name = f"of_{abs(hash(request.node.name))}"
    for database in (name, f"{name}_mlflow"):
        server.sql(f"CREATE DATABASE {database}")
    yield server.url(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def sweep(forks, url: str) -> Callable[..., Running]:
    """Begins a sweep in a folder."""

    def start(folder: Path, *overrides: str) -> Running:
        folder.mkdir(exist_ok=True)
        return forks.start([*REPLAY, f'sweep.study="{url}"', *overrides], folder)

    return start


def records(url: str):
    return Study.read(url, "summarize", Path("unused")).records()


def mlflow_runs(uri: str):
    quiet_mlflow()
    client = client_of(uri)
    experiments = [one.experiment_id for one in client.search_experiments() if one.name == "summarize"]
    return client.search_runs(experiments)


def test_a_killed_sweep_goes_on_in_study_and_mlflow_and_no_password_shows(
    server, url, sweep, tmp_path, monkeypatch, capsys
):
    """The driver is named in one URL and left out in the other."""
    tracking = url.replace("postgresql:", "postgresql+psycopg:").replace("?", "_mlflow?")
    overrides = (f'tracking.uri="{tracking}"', "tracking=mlflow", "budget.trials=3")
    process = sweep(tmp_path, "budget.trials=3", "engine.speedup=30")
    told = read_until(process, "Trial 1")
    told += read_until(process, "after 48 examples")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    told += sweep(tmp_path, *overrides).communicate(timeout=300)[0]
    done = records(url)
    assert [record.number for record in done] == [BASE, 0, 1, 2]
    assert all(record.state.is_over for record in done)
    assert done[2].attempt == 2
    assert "Report: sweeps/summarize/report.html" in told
    assert "needs its password" not in told
    runs = mlflow_runs(tracking)
    assert sum("sweeper.number" in run.data.tags for run in runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}

    monkeypatch.chdir(tmp_path)
    assert main(["show", "summarize"]) == 2
    assert "set SWEEPER_STUDY to the whole URL" in capsys.readouterr().err
    monkeypatch.setenv("SWEEPER_STUDY", url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    codes = [
        main([*verb.split()]) for verb in ("list", "show summarize", "report summarize", "repair summarize")
    ]
    assert codes == [0, 0, 0, 0]
    assert main(["delete", "summarize", "--yes"]) == 0
    shown = capsys.readouterr()
    told += shown.out + shown.err
    for expected in ("3/3", "Best: trial", "Report:", "on a server, which looks after", "Deleted summarize"):
        assert expected in shown.out
    assert "not stored" not in shown.out + shown.err
    assert mlflow_runs(tracking) == []
    assert Study.names(url) == []
    assert PASSWORD not in told
    assert not any(PASSWORD.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_two_folders_and_one_study_have_one_coordinator(sweep, tmp_path):
    """As two hosts have it that share nothing but the server; a kill makes room at once."""
    first = sweep(tmp_path / "a", "engine.speedup=5")
    read_until(first, "Trial 0: the default settings")
    second = sweep(tmp_path / "b", "budget.trials=2")
    told = second.communicate(timeout=120)[0]
    assert second.returncode == 2
    assert f"is being run by process {first.pid} on {os.uname().nodename}" in told
    first.send_signal(signal.SIGKILL)
    third = sweep(tmp_path / "b", "budget.trials=2")
    told = third.communicate(timeout=120)[0]
    assert third.returncode == 0, told
    first.communicate(timeout=60)


def test_a_server_that_restarts_is_waited_for(server, url, sweep, tmp_path):
    process = sweep(tmp_path, "engine.speedup=20", "budget.trials=3")
    told = read_until(process, "Trial 0: the default settings")
    server.stop()
    told += read_until(process, "waiting for it")
    server.start()
    told += process.communicate(timeout=300)[0]
    assert process.returncode == 0, told
    done = records(url)
    assert [record.number for record in done] == [BASE, 0, 1, 2]
    assert all(record.state.is_over and record.attempt == 1 for record in done)
    with lock.hold(Layout(tmp_path, "summarize"), url):
        assert PASSWORD not in told


def test_a_server_that_stays_away_ends_the_sweep_and_loses_nothing(server, url):
    storage = open_storage(url, patience=0.5)
    study = storage.create_new_study([], "s")
    storage.create_new_trial(study)
    server.stop()
    try:
        for _ in range(2):
            with pytest.raises(
                StorageError, match=r"sweeper:\*\*\*@.* could not be used for .* the same command"
            ):
                storage.set_study_user_attr(study, "key", 1)
        with pytest.raises(StudyError, match=r"can't be used: .*that its server runs") as refusal:
            open_storage(url)
        assert PASSWORD not in str(refusal.value)
    finally:
        server.start()
    storage.set_study_user_attr(study, "key", 1)
    assert len(storage.get_all_trials(study)) == 1


def test_a_server_that_is_down_at_the_start_is_named(server, url, tmp_path, capsys):
    gone = url.replace(str(server.folder), str(tmp_path))
    assert main([*REPLAY, f'sweep.study="{gone}"', f"sweep.folder={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert "sweeper:***@" in told
    assert "Check the URL (sweep.study), the file's permissions, and that its server runs" in told
    assert PASSWORD not in told


def test_a_lock_that_somebody_else_took_meanwhile_is_not_taken_back(server, url):
    first, second = SessionLock(url, "sweep"), SessionLock(url, "sweep")
    assert first.acquire() is None
    assert second.acquire() == f"process {os.getpid()} on {os.uname().nodename}"
    assert SessionLock(url, "another sweep").acquire() is None
    server.stop()
    server.start()
    first.renew()
    first.renew()
    assert second.acquire() is not None
    server.cut()
    assert second.acquire() is None
    with pytest.raises(
        StorageError, match=r"the server dropped the lock on `sweep`, and process .* has it now"
    ):
        first.renew()
    second.release()


def test_a_writer_without_its_lock_writes_no_more(server, url):
    storage = open_storage(url, lasting=True)
    study = storage.create_new_study([], "s")
    with holding(url, "s") as holder:
        assert holder is None
        server.cut("application_name LIKE 'sweeper%'")
        with holding(url, "s") as holder:
            assert holder is None, "dropped with its session, while the one that writes lives on"
            with pytest.raises(StorageError, match=r"and process .* has it now"):
                storage.set_study_user_attr(study, "key", 1)
    storage.set_study_user_attr(study, "key", 2)


def test_what_somebody_else_sets_up_for_too_long_is_given_up(url, monkeypatch):
    monkeypatch.setattr(postgres, "_SET_UP_SECONDS", 0.0)
    with (
        alone(url, "tables"),
        pytest.raises(
            StudyError, match=r"process .* has been setting up the tables on the server for over 0 s"
        ),
        alone(url, "tables"),
    ):
        pass


def test_what_is_done_alone_waits_for_its_turn(url):
    order = []

    def second() -> None:
        with alone(url, "tables"):
            order.append("second")

    thread = threading.Thread(target=second)
    with alone(url, "tables"):
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


@pytest.mark.parametrize("given", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_driver_is_filled_in(given):
    whole = with_driver(f"{given}://me:a%40b@db.example:5433/studies?sslmode=require")
    assert whole.startswith("postgresql+psycopg://me:a%40b@db.example:5433/studies?")
    assert "sslmode=require" in whole
    assert "connect_timeout=10" in whole


def test_what_is_given_stays():
    url = "postgresql+psycopg://me@db.example/studies?connect_timeout=3"
    assert with_driver(url) == url
    assert with_driver("sqlite:///study.db") == "sqlite:///study.db"


def test_a_missing_driver_is_named_with_its_installation():
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from sweeper.__main__ import main\n"
        f"main({[*REPLAY, 'sweep.study=postgresql://me:hush@localhost/x', 'sweep.folder=/tmp/never']!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (
        "for PostgreSQL, in sweeper's folder: pip install -c constraints.txt -e '.[postgres]'" in done.stderr
    )
    assert "hush" not in done.stderr
