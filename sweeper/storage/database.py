"""The study database: its URL, what is wrong with it, and how it is opened."""

import logging
import os
import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, _CachedStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sweeper.credentials import masked, without_secrets
from sweeper.errors import StudyError, SweeperError, first_line, installing
from sweeper.storage import postgres
from sweeper.storage.patience import PATIENCE_SECONDS, Patient
from sweeper.storage.writer import BatchStorage, SoleWriter

_ASKED = 60
"""Times that SQLite is asked while we wait for others: Python hears no signal within one of them."""
_OPENING_SECONDS = 30.0
"""How long SQLite waits for others when a database is opened."""
_log = logging.getLogger(__name__)


def sqlite_path(url: str, setting: str = "sweep.study") -> Path | None:
    """The file behind an SQLite URL; None for any other database.

    `setting` is where `url` was given. Raises StudyError if it is no URL of a database.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise StudyError(
            f"{setting} is no database URL; write it like sqlite:///sweeps/study.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


def refuse_shared(study: str, tracking: str | None) -> None:
    """Raise StudyError if study and MLflow were to share a database: each keeps the version of its tables in
    a table of the same name.
    """
    if tracking is None or tracking.startswith(("http:", "https:", "databricks")):
        return
    if _place(study, "sweep.study") == _place(tracking, "tracking.uri"):
        raise StudyError(
            f"sweep.study and tracking.uri name the same database ({masked(study)}); give each a database of "
            "its own, on the same server if you like"
        )


def _place(url: str, setting: str) -> object:
    """What tells databases apart."""
    path = sqlite_path(url, setting)
    if path is not None:
        return path.resolve()
    parsed = sqlalchemy.make_url(url)
    where = parsed.host or parsed.query.get("host")
    return parsed.get_backend_name(), where, parsed.port, parsed.database, parsed.query.get("options")


def check_database(url: str) -> None:
    """Raise StudyError if `url` can't be a study database, without creating anything."""
    path = sqlite_path(url)
    if path is None:
        return
    try:
        _check_file(path)
    except OSError as error:
        raise StudyError(
            f"{path} can't be reached: {error.strerror}; check the permissions of its folders, or set "
            "sweep.study"
        ) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise StudyError(f"{path} is a folder; the study database must be a file")
    if path.exists() and path.stat().st_size:
        _check_format(path)
    if path.exists() and not os.access(path, os.W_OK):
        raise StudyError(f"{path} can't be written; check its permissions or set sweep.study")
    parent = next(p for p in [path.parent, *path.parent.parents] if p.exists())
    if not parent.is_dir():
        raise StudyError(f"{parent} is a file, so {path} can't be made; set sweep.study or sweep.folder")
    if not os.access(parent, os.W_OK):
        raise StudyError(f"{parent} can't be written; check its permissions or set sweep.folder")


def _check_format(path: Path) -> None:
    """Raise StudyError if the file is no database.

    SQLite itself looks: a process that opens a database as a plain file, and closes it, drops every lock
    that its SQLite connections hold on it (POSIX), and commits may be lost.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:
        return  # locked, or not to be read: opening it will say so
    except sqlite3.DatabaseError:
        raise StudyError(
            f"{path} is no SQLite database; move it away or set sweep.study to another file"
        ) from None


def damage(path: Path, patience: float = 5.0) -> str:
    """What SQLite finds wrong with the database at `path`; empty if it is sound.

    Raises StudyError if it can't look: the file isn't there, or somebody has locked it for over `patience`
    seconds.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=patience)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        raise StudyError(
            f"{path} can't be looked at ({error}); see who has it, or whether it is there, and try again"
        ) from error
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else str(found)


def open_storage(url: str, patience: float = PATIENCE_SECONDS, lasting: bool = False) -> _CachedStorage:
    """Open the database, with its tables, through SQLAlchemy.

    `lasting`: for a whole sweep, so that a connection to a server stays open from one transaction to another.
    A database that gets locked by others, or whose server restarts, is waited for: about `patience` seconds,
    then StorageError is raised. Raises StudyError if it can't be opened.
    """
    check_database(url)
    path = sqlite_path(url)
    try:
        if path is not None:
            storage = _open_file(url, path, patience / _ASKED)
        elif postgres.is_postgres(url):
            storage = _open_server(url, lasting)
        else:
            storage = BatchStorage(url)
    except SweeperError:
        raise
    except Exception as error:
        raise unusable(url, error) from error
    return _CachedStorage(cast(RDBStorage, Patient(storage, masked(url), patience)))


def _open_file(url: str, path: Path, busy: float) -> BatchStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.setup")):
        if (not path.exists() or not path.stat().st_size) and not write_ahead(path):
            _log.warning(
                "%s is on a file system without the shared memory of SQLite's write-ahead log, as many are "
                "that go through a network: it is kept with a rollback journal, as safe and a little slower. "
                "For several hosts at once there is PostgreSQL (sweep.study).",
                path,
            )
        storage = BatchStorage(url, engine_kwargs={"connect_args": {"timeout": _OPENING_SECONDS}})
    sqlalchemy.event.listen(storage.engine, "connect", _relax_sync)
    sqlalchemy.event.listen(storage.engine, "connect", partial(_ask_soon, busy))
    storage.engine.dispose()
    return storage


def write_ahead(path: Path) -> bool:
    """Have SQLite keep the new database at `path` with a write-ahead log; False where that doesn't work.

    With it readers and the writer don't wait for each other. It takes memory that processes share through a
    file, which network file systems refuse, some of them only when it is first written to.
    """
    with suppress(sqlite3.OperationalError), closing(_connect(path)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
        return bool(mode == "wal")
    with closing(_connect(path)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # takes no shared memory
        connection.execute("PRAGMA journal_mode=DELETE")
    return False


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def _open_server(url: str, lasting: bool) -> BatchStorage:
    # The ping sorts out connections that a restart of the server has cut.
    options: dict[str, Any] = {"pool_pre_ping": True} if lasting else {"poolclass": sqlalchemy.NullPool}
    with postgres.alone(url, "tables of the study"):
        storage = BatchStorage(postgres.with_driver(url), engine_kwargs=options)
    # Without the lock on its sweep a process must not write: its session may end while this one lives.
    sqlalchemy.event.listen(storage.engine, "begin", lambda _: postgres.renew_held(url))
    return storage


def unusable(url: str, error: Exception) -> StudyError:
    """What is said when the database at `url` can't be opened; re-raises what has nothing to do with it."""
    if isinstance(error, ImportError):
        return StudyError(
            f"the study database {masked(url)} needs a driver that is not installed "
            f"({error.__cause__ or error}); for PostgreSQL, {installing('postgres')}"
        )
    if not isinstance(error, _OPENING):
        raise error
    why = without_secrets(first_line(error).replace(url, masked(url)))
    return StudyError(
        f"the study database {masked(url)} can't be used: {why}. Check the URL "
        "(sweep.study), the file's permissions, and that its server runs"
    )


_OPENING = (SQLAlchemyError, StorageInternalError, sqlite3.Error, RuntimeError, OSError, TypeError)
"""What opening a database raises; TypeError: a query value that the driver doesn't know."""


def sole_writer(database: _CachedStorage, name: str) -> SoleWriter:
    """The study `name` in an open database for the one process that writes it."""
    return SoleWriter(database, cast(BatchStorage, database._backend), name)


def _ask_soon(busy: float, connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout={round(1000 * busy)}")


def _relax_sync(connection: Any, _record: Any) -> None:
    # With a write-ahead log this survives a killed process; only a power failure may lose the last commits.
    if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        connection.execute("PRAGMA synchronous=NORMAL")
