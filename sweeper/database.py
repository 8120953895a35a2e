"""The study database: its URL, what is wrong with it, and how it is opened."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import sqlalchemy
from filelock import FileLock
from optuna.storages import _CachedStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sweeper.credentials import masked, without_secrets
from sweeper.errors import StudyError
from sweeper.writer import BatchStorage, SoleWriter

_BUSY_SECONDS = 60
"""How long a writer waits for another one."""


def sqlite_path(url: str) -> Path | None:
    """The file behind an SQLite URL; None for any other database. Raises StudyError if `url` is none."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise StudyError(
            "sweep.study is no database URL; write it like sqlite:///sweeps/study.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


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


def open_storage(url: str) -> _CachedStorage:
    """Open the database, with its tables, through SQLAlchemy."""
    check_database(url)
    path = sqlite_path(url)
    options: dict[str, Any] = {}
    try:
        if path is None:
            return _CachedStorage(BatchStorage(url))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.setup")):
            with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
                # Readers and the writer don't wait for each other; persistent in the file. A network
                # file system refuses it and keeps its rollback journal.
                connection.execute("PRAGMA journal_mode=WAL")
            options["connect_args"] = {"timeout": _BUSY_SECONDS}
            storage = BatchStorage(url, engine_kwargs=options)
        sqlalchemy.event.listen(storage.engine, "connect", _relax_sync)
        storage.engine.dispose()
        return _CachedStorage(storage)
    except ImportError as error:
        raise StudyError(
            f"the study database {masked(url)} needs a driver that is not installed "
            f"({error.__cause__ or error}); for PostgreSQL: "
            "pip install 'sweeper[postgres]' and a URL that begins with postgresql+psycopg://"
        ) from error
    except (SQLAlchemyError, sqlite3.Error, RuntimeError, OSError, TypeError) as error:
        # TypeError: a query value that the driver doesn't know.
        why = without_secrets(_first_line(error).replace(url, masked(url)))
        raise StudyError(
            f"the study database {masked(url)} can't be used: {why}. Check the URL "
            "(sweep.study), the file's permissions, and that its server runs"
        ) from error


def sole_writer(database: _CachedStorage, name: str) -> SoleWriter:
    """The study `name` in an open database for the one process that writes it."""
    return SoleWriter(database, cast(BatchStorage, database._backend), name)


def _relax_sync(connection: Any, _record: Any) -> None:
    # With WAL this survives a killed process; only a power failure may lose the last commits.
    connection.execute("PRAGMA synchronous=NORMAL")


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
