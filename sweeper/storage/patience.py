"""Waiting for a database that is locked, or whose server restarts: a sweep is not lost for that."""

import logging
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError

from sweeper.errors import StorageError, first_line
from sweeper.storage.disk import raise_if_full

PATIENCE_SECONDS = 300.0
"""How long a sweep waits for its study database."""
_PAUSE_SECONDS = 1.0

_SQLITE_BUSY, _SQLITE_LOCKED = 5, 6
_GONE = ("08", "57P", "53300")
"""How the codes of PostgreSQL's errors begin: the connection, a server that shuts down or starts up, too many
connections."""

_log = logging.getLogger(__name__)


class Patient:
    """Optuna's storage, whose methods are tried again while the database can't be had.

    Each of them is one transaction, which is there as a whole or not at all.
    """

    def __init__(self, storage: RDBStorage, called: str, patience: float = PATIENCE_SECONDS) -> None:
        """`called` names the database in messages."""
        self._storage = storage
        self._called = called
        self._patience = patience
        self._given_up = False

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._storage, name)
        return self._patiently(value) if callable(value) else value

    def _patiently(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            is_told = False
            while True:
                try:
                    found = method(*arguments, **options)
                    self._given_up = False
                    return found
                except StorageInternalError as error:
                    cause = error.__cause__
                    raise_if_full(error, self._called)
                    if not _passes(cause):
                        raise StorageError(
                            f"the study database {self._called} took nothing more ({first_line(cause)}). "
                            "What was trained is kept; see to the database, then the same command goes on"
                        ) from error
                    waited = time.monotonic() - started
                    if self._given_up or waited >= self._patience:
                        self._given_up = True  # what is still to be said at the end need not wait again
                        raise StorageError(
                            f"the study database {self._called} could not be used for {waited:.0f} s "
                            f"({first_line(cause)}). What was trained is kept; when the database is back, "
                            "the same command goes on"
                        ) from error
                    if not is_told:
                        _log.warning(
                            "The study database %s can't be used at the moment (%s); waiting for it.",
                            self._called,
                            first_line(cause),
                        )
                        is_told = True
                    time.sleep(min(_PAUSE_SECONDS, self._patience / 10))

        return call


def _passes(error: BaseException | None) -> bool:
    """Whether the same statement may succeed later."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in (_SQLITE_BUSY, _SQLITE_LOCKED)
    state = getattr(error.orig, "sqlstate", None)
    is_operational = type(error.orig).__name__ in ("OperationalError", "InterfaceError")
    return error.connection_invalidated or (str(state).startswith(_GONE) if state else is_operational)
