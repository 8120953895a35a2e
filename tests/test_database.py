"""What is said when the study database can't be used."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import optuna
import pytest

from sweeper.credentials import masked
from sweeper.errors import StorageError, StudyError
from sweeper.storage.database import check_database, open_storage, refuse_shared, sqlite_path


def test_passwords_are_masked():
    url = "postgresql+psycopg://me:s3cret@db.example/studies"
    assert masked(url) == "postgresql+psycopg://me:***@db.example/studies"
    assert "s3cret" not in masked("no url: s3cret")


def test_no_url():
    with pytest.raises(StudyError, match=r"sweep\.study is no database URL; write it like sqlite:///"):
        sqlite_path("study.db")
    with pytest.raises(StudyError, match=r"tracking\.uri is no database URL"):
        refuse_shared("sqlite:///study.db", "postgresql://me@host:port/mlflow")


@pytest.mark.parametrize(
    ("study", "tracking"),
    [
        ("postgresql://me:hush@host/sweeps", "postgresql+psycopg://you:hush@host/sweeps"),
        ("sqlite:///sweeps/study.db", "sqlite:///./sweeps/study.db"),
    ],
)
def test_study_and_mlflow_need_databases_of_their_own(study, tracking):
    with pytest.raises(
        StudyError, match=r"name the same database .* give each a database of its own"
    ) as refusal:
        refuse_shared(study, tracking)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    "tracking",
    [None, "https://host/sweeps", "databricks://me", "postgresql://host/mlflow", "sqlite:///a.db"],
)
def test_databases_of_their_own_are_taken(tracking):
    assert refuse_shared("postgresql://host/sweeps", tracking) is None


def test_not_a_database(tmp_path):
    path = tmp_path / "study.db"
    path.write_text("these are my notes, and they stay")
    with pytest.raises(StudyError, match="is no SQLite database; move it away"):
        open_storage(f"sqlite:///{path}")
    assert path.read_text() == "these are my notes, and they stay"


def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(StudyError, match="is a folder; the study database must be a file"):
        check_database(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("below", ["x.db", "deep/x.db"])
@pytest.mark.parametrize("open_it", [check_database, open_storage])
def test_a_file_where_a_folder_must_be(tmp_path, below, open_it):
    (tmp_path / "file").write_text("notes")
    with pytest.raises(StudyError, match=r"file is a file, so .*x\.db can't be made; set sweep\.study"):
        open_it(f"sqlite:///{tmp_path / 'file' / below}")


def test_a_folder_that_cannot_be_made(tmp_path):
    """A link to nowhere shows only when the folder is made."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StudyError, match=r"x\.db can't be used: .*File exists"):
        open_storage(f"sqlite:///{tmp_path / 'link' / 'x.db'}")


def as_user(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code as a user whom file permissions bind: root writes everywhere."""
    drop = "import os, sys\nfrom sweeper.storage.database import check_database\n"
    drop += "os.getuid() or os.setuid(65534)\n"
    return subprocess.run(
        [sys.executable, "-c", drop + code, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_database_that_cannot_be_written(tmp_path, what):
    path = tmp_path / "study.db"
    if what == "file":
        sqlite3.connect(path).execute("create table t (x)")
        path.chmod(0o444)
        tmp_path.chmod(0o755)
    else:
        tmp_path.chmod(0o555)
    for parent in (folder for folder in tmp_path.parents if folder.name.startswith(("pytest-", "popen-"))):
        parent.chmod(0o755)
    done = as_user("check_database(sys.argv[1])", f"sqlite:///{path}")
    tmp_path.chmod(0o755)
    assert "StudyError" in done.stderr, done.stderr
    assert "can't be written; check its permissions" in done.stderr


def test_an_unreachable_server_is_named_without_its_password():
    with pytest.raises(StudyError, match=r"me:\*\*\*@.* can't be used: .*Check the URL") as refusal:
        open_storage("postgresql+psycopg://me:s3cret@127.0.0.1:1/none")
    assert "s3cret" not in str(refusal.value)


def test_sqlite_is_in_wal_mode(tmp_path):
    path = tmp_path / "deep" / "study.db"
    open_storage(f"sqlite:///{path}")
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_system_without_shared_memory_gets_a_rollback_journal(tmp_path, caplog):
    """A folder in its place keeps SQLite from the shared memory that network file systems refuse."""
    path = tmp_path / "study.db"
    (tmp_path / "study.db-shm").mkdir()
    study = optuna.create_study(storage=open_storage(f"sqlite:///{path}"), study_name="a")
    study.tell(study.ask(), 1.0)
    assert "it is kept with a rollback journal, as safe and a little slower" in caplog.text
    caplog.clear()
    again = optuna.load_study(storage=open_storage(f"sqlite:///{path}"), study_name="a")
    again.tell(again.ask(), 2.0)
    assert caplog.text == ""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "full"
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@contextmanager
def locked(path, seconds):
    """Somebody else writes all the time, for so long."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(seconds, connection.rollback)
    timer.start()
    try:
        yield
    finally:
        timer.join()
        connection.close()


def test_a_locked_database_is_waited_for(tmp_path, caplog):
    path = tmp_path / "study.db"
    study = optuna.create_study(storage=open_storage(f"sqlite:///{path}", patience=6.0), study_name="a")
    with locked(path, 2.0):
        study.set_user_attr("key", 1)
    assert "study.db can't be used at the moment (database is locked); waiting for it." in caplog.text
    assert study.user_attrs == {"key": 1}


def test_a_database_that_stays_locked_ends_the_sweep(tmp_path):
    path = tmp_path / "study.db"
    study = optuna.create_study(storage=open_storage(f"sqlite:///{path}", patience=0.5), study_name="a")
    refused = pytest.raises(StorageError, match=r"could not be used for .* \(database is locked\).* goes on")
    with locked(path, 4.0), refused:
        study.set_user_attr("key", 1)
    study.set_user_attr("key", 2)
    assert study.user_attrs == {"key": 2}


def test_a_reader_that_never_leaves_is_no_hindrance(tmp_path):
    path = tmp_path / "study.db"
    study = optuna.create_study(storage=open_storage(f"sqlite:///{path}", patience=1.0), study_name="a")
    study.tell(study.ask(), 1.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        count = "SELECT count(*) FROM trials"
        before = reader.execute(count).fetchone()
        for _ in range(20):
            study.tell(study.ask(), 1.0)
        assert reader.execute(count).fetchone() == before, "it has been reading all the time"
    assert len(study.get_trials()) == 21


def test_looking_at_a_live_database_loses_no_commit(tmp_path):
    """Another check, and another process that opens and closes the database, between a writer's commits."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    count = (
        "import optuna, sys; from sweeper.storage.database import open_storage\n"
        "print(len(optuna.load_study(storage=open_storage(sys.argv[1]), study_name='a').trials))"
    )

    def seen_by_another_process() -> int:
        done = subprocess.run(
            [sys.executable, "-c", count, url], capture_output=True, text=True, timeout=60, check=True
        )
        return int(done.stdout)

    study = optuna.create_study(storage=open_storage(url), study_name="a")
    study.ask()
    check_database(url)
    assert seen_by_another_process() == 1
    for _ in range(5):
        study.tell(study.ask(), 1.0)
    assert seen_by_another_process() == 6


def test_a_missing_driver_is_named_with_its_installation():
    with pytest.raises(StudyError, match=r"needs a driver that is not installed .*oracledb") as refusal:
        open_storage("oracle+oracledb://me:hush@localhost/sweeps")
    assert "hush" not in str(refusal.value)
    with pytest.raises(StudyError, match=r"for PostgreSQL, in sweeper's folder: pip install .*\[postgres\]"):
        open_storage("oracle+oracledb://me:hush@localhost/sweeps")
