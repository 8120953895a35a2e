"""One living coordinator per sweep: a lock that the operating system drops when its holder dies."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.errors import StudyError
from sweeper.failpoints import reach
from sweeper.layout import Layout, write_atomically


@contextmanager
def hold(layout: Layout, database: Path | None = None) -> Iterator[None]:
    """Hold the sweep for this process; raises StudyError naming the process that has it.

    `database` is the SQLite file of the study: sweeps in different folders may share one.
    """
    locks = [FileLock(layout.lock)]
    if database is not None:
        locks.append(FileLock(database.with_name(f".{database.name}.{layout.name}.lock")))
    try:
        layout.folder.mkdir(parents=True, exist_ok=True)
        for lock in locks:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:  # which is an OSError too
        for lock in locks:
            lock.release()
        raise StudyError(
            f"sweep `{layout.name}` is being run by {_holder(layout)}. Wait for it, stop it with Ctrl-C "
            f"there, or begin another one: sweep.name={layout.name}_2"
        ) from None
    except OSError as error:
        raise StudyError(
            f"{layout.folder} can't be written: {error.strerror or error}; check its permissions, or set "
            "sweep.folder"
        ) from error
    try:
        reach("lock.held")
        layout.clear_away()
        me = {"host": socket.gethostname(), "process": os.getpid()}
        write_atomically(layout.holder, json.dumps(me))
        reach("lock.announced")
        yield
    finally:
        layout.holder.unlink(missing_ok=True)
        reach("lock.leaving")
        for lock in locks:
            lock.release()


def is_held(layout: Layout) -> bool:
    """True while a living process runs the sweep."""
    if not layout.lock.exists():
        return False
    lock = FileLock(layout.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _holder(layout: Layout) -> str:
    try:
        who = json.loads(layout.holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another process"
    return f"process {who['process']} on {who['host']}"
