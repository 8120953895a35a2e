"""What only a PostgreSQL server can do for a sweep: locks that it drops itself when their holder dies.

Such a lock (an advisory lock of a session) holds wherever its holder runs, unlike one on a file. It takes a
session of its own: a pooler between here and the server must give each client one (pgbouncer: session mode).
"""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from sweeper.errors import StorageError, StudyError

_CONNECT_SECONDS = "10"
_ACQUIRE_SECONDS = 2.0
"""A killed holder's session is gone in milliseconds; so long its end is waited for."""
_SET_UP_SECONDS = 60.0
_MINUTE_OF_SILENCE = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""After which the server drops the session of a host that has vanished; its own default is two hours."""

_HOLDER = """
    SELECT activity.application_name FROM pg_locks held JOIN pg_stat_activity activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND activity.datname = current_database()
    AND held.objsubid = 1 AND (held.classid::bigint << 32 | held.objid::bigint) = :key
"""


def is_postgres(url: str) -> bool:
    """Whether `url` is of a PostgreSQL database, with or without a driver's name."""
    return url.partition("://")[0].partition("+")[0] in ("postgres", "postgresql")


def with_driver(url: str) -> str:
    """`url` as SQLAlchemy takes it: a PostgreSQL URL names its driver, and doesn't wait for ever."""
    if not is_postgres(url):
        return url
    kind, _, rest = url.partition("://")
    parsed = sqlalchemy.make_url(f"{kind if '+' in kind else 'postgresql+psycopg'}://{rest}")
    if "psycopg" in parsed.drivername and "connect_timeout" not in parsed.query:
        parsed = parsed.update_query_dict({"connect_timeout": _CONNECT_SECONDS})
    return parsed.render_as_string(hide_password=False)


class SessionLock:
    """The lock `name` on a server, held by a session of this process."""

    def __init__(self, url: str, name: str) -> None:
        """Nothing is contacted yet."""
        self._name = name
        self._engine = sqlalchemy.create_engine(
            with_driver(url), poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )
        self._session: sqlalchemy.Connection | None = None

    def acquire(self) -> str | None:
        """Take the lock; None if that went well, and else who has it. Raises SQLAlchemyError."""
        deadline = time.monotonic() + _ACQUIRE_SECONDS
        self._session = self._engine.connect()
        about = {"application_name": f"sweeper, process {os.getpid()} on {socket.gethostname()}"[:63]}
        for setting, value in (about | _MINUTE_OF_SILENCE).items():
            self._ask("SELECT set_config(:setting, :value, false)", setting=setting, value=value)
        with suppress(SQLAlchemyError):  # older servers don't know it, and end no session for being idle
            self._ask("SELECT set_config('idle_session_timeout', '0', false)")
        while not self._ask("SELECT pg_try_advisory_lock(:key)", key=self._key):
            if time.monotonic() > deadline:
                who = self._ask(_HOLDER, key=self._key)
                self.release()
                return str(who or "another process").removeprefix("sweeper, ")
            time.sleep(0.1)
        return None

    def renew(self) -> None:
        """Take the lock again if the server has dropped it; raises StorageError if it is another's now."""
        if self._session is not None:
            with suppress(SQLAlchemyError):
                self._ask("SELECT 1")
                return
        self.release()
        if holder := self.acquire():
            raise StorageError(
                f"the server dropped the lock on `{self._name}`, and {holder} has it now: this process "
                "leaves the sweep to it"
            )

    def release(self) -> None:
        """Give the lock back."""
        if self._session is not None:
            with suppress(SQLAlchemyError):
                self._session.invalidate()  # ends the session, and the lock with it
                self._session.close()
            self._session = None

    @property
    def _key(self) -> int:
        return int.from_bytes(hashlib.sha256(f"sweeper {self._name}".encode()).digest()[:8], signed=True)

    def _ask(self, statement: str, **values: Any) -> Any:
        assert self._session is not None  # noqa: S101 - for mypy: only who holds the lock asks
        return self._session.execute(sqlalchemy.text(statement), values).scalar()


_held: dict[str, list[SessionLock]] = {}
"""By URL, what this process holds: a lock belongs to a process, as those on files do."""


@contextmanager
def holding(url: str, name: str) -> Iterator[str | None]:
    """Hold the lock `name` of the server at `url` meanwhile; gives who has it, None where it was free.

    Raises SQLAlchemyError if the server can't be asked.
    """
    lock = SessionLock(url, name)
    try:
        if (holder := lock.acquire()) is None:
            _held.setdefault(url, []).append(lock)
        yield holder
    finally:
        if lock in _held.get(url, []):
            _held[url].remove(lock)
        lock.release()


def renew_held(url: str) -> None:
    """Take this process's locks again that the server at `url` has dropped. Raises as `renew` does."""
    for lock in _held.get(url, []):
        lock.renew()


@contextmanager
def alone(url: str, name: str) -> Iterator[None]:
    """Wait for the lock `name`, then hold it meanwhile: for setting up what several may want to at once.

    Raises StudyError if somebody else has it for more than a minute.
    """
    lock = SessionLock(url, name)
    deadline = time.monotonic() + _SET_UP_SECONDS
    try:
        while (holder := lock.acquire()) is not None:
            if time.monotonic() > deadline:
                raise StudyError(
                    f"{holder} has been setting up the {name} on the server for over {_SET_UP_SECONDS:g} s; "
                    "see whether it hangs, and end it if it does"
                )
        yield
    finally:
        lock.release()
