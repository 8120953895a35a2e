"""One living coordinator per sweep: locks that vanish with their holder, however it dies.

The lock on a file in the sweep's folder also holds between the hosts that share the folder, where the file
system passes such locks (flock) on: NFS version 4, Lustre with the mount option `flock`. Folders of their own
may share a study: there the database's lock counts, beside an SQLite file or on the PostgreSQL server.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.errors import StudyError
from sweeper.failpoints import reach
from sweeper.layout import Layout, clear_unfinished, is_alive, write_atomically
from sweeper.storage import postgres
from sweeper.storage.database import sqlite_path, unusable

_ACQUIRE_SECONDS = 1.0
"""Whoever only looks (`is_held`) has a lock for a moment."""
_SIGN_SECONDS = 2.0
"""How long the holder is given to write down who it is."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def hold(layout: Layout, url: str | None = None) -> Iterator[None]:
    """Hold the sweep for this process; raises StudyError naming the process that has it.

    `url` is that of its study; None: the one beside it.
    """
    url = url or layout.study_url
    with ExitStack() as held:
        for path, sign in _files(layout, url):
            if holder := _on_a_file(path, sign, held):
                raise _refusal(layout, holder)
        if holder := _on_the_server(url, layout.name, held):
            raise _refusal(layout, holder)
        reach("lock.held")
        layout.clear_away()
        yield
        reach("lock.leaving")


def is_held(layout: Layout) -> bool:
    """True while a living process runs the sweep from this folder."""
    if not layout.lock.exists():
        return False
    lock = FileLock(layout.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _files(layout: Layout, url: str) -> list[tuple[Path, Path]]:
    """The files that are locked, each with the one that says by whom."""
    files = [(layout.lock, layout.holder)]
    if (database := sqlite_path(url)) is not None:
        name = f".{database.name}.{layout.name.replace('/', '+')}"
        files.append((database.with_name(f"{name}.lock"), database.with_name(f"{name}.holder.json")))
    return files


def _on_a_file(path: Path, sign: Path, held: ExitStack) -> str | None:
    """Have `held` hold the lock `path`, and say so in `sign`; gives who has it."""
    lock = FileLock(path, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_ACQUIRE_SECONDS)
        held.callback(lock.release)
        clear_unfinished(sign.parent, sign.name)
        write_atomically(sign, json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        reach("lock.announced")
        held.callback(sign.unlink, missing_ok=True)
    except Timeout:  # which is an OSError too
        return _signed(sign)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise StudyError(
                f"the file system of {path.parent} has no locks that vanish with a process "
                f"({error.strerror}): nothing would keep a second coordinator out. Mount it with them (NFS "
                "version 4; Lustre with `flock`), or set sweep.folder to another disk"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no matter of locks: whoever runs a sweep has words for it
        raise StudyError(
            f"{path.parent} can't be written: {error.strerror or error}; check its permissions, or set "
            "sweep.folder"
        ) from error
    return None


def _on_the_server(url: str, name: str, held: ExitStack) -> str | None:
    """Have `held` hold the study on its server too, where it is on one; gives who has it."""
    if not postgres.is_postgres(url):
        return None
    try:
        return held.enter_context(postgres.holding(url, name))
    except Exception as error:
        raise unusable(url, error) from error


def _refusal(layout: Layout, holder: str) -> StudyError:
    return StudyError(
        f"sweep `{layout.name}` is being run by {holder}. Wait for it, stop it with Ctrl-C "
        f"there, or begin another one: sweep.name={layout.name}_2"
    )


def _signed(sign: Path) -> str:
    """Who has a lock, as it has written down; what a dead process left there doesn't count."""
    deadline = time.monotonic() + _SIGN_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, KeyError):
            who = json.loads(sign.read_text(encoding="utf-8"))
            if who["host"] != socket.gethostname() or is_alive(who["process"]):
                return f"process {who['process']} on {who['host']}"
        time.sleep(0.1)
    return "another process"
