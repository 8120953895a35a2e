"""A command that is told to leave, leaves in time.

Whoever sends another signal than Ctrl-C (a batch system, a scheduler of containers) kills what is still there
soon after. All that is stored is whole at any moment, so leaving early loses what is not stored, and no more.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

INTERRUPTED = 130
"""Exit code of a command that was interrupted and can go on, as shells have it for Ctrl-C."""

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What interrupts a sweep: Ctrl-C, preemption, and the warnings of a batch system."""

_LAST_WORD_SECONDS = 1.0
"""Whoever should read it may be gone, or have stopped the terminal."""


@contextmanager
def leaving_in_time(grace: float, say: Callable[[str], None]) -> Iterator[None]:
    """Within this block the process ends `grace` seconds after such a signal at the latest.

    `say` gets its last word. A thread waits for the signal itself: Python's handlers run between two steps of
    the main thread, and one of those may last, be it a backward pass or a wait for a database.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    over = Event()

    def watch() -> None:
        with ours:
            while signum := ours.recv(1):
                if signum[0] in STOPPING and signum[0] != signal.SIGINT:
                    if not over.wait(grace):
                        _leave(grace, say)
                    return

    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    Thread(target=watch, name="preemption", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        theirs.close()


def _leave(grace: float, say: Callable[[str], None]) -> None:
    told = (
        f"Leaving after executor.grace_seconds={grace:g}: what is not saved by now is trained again from the "
        "checkpoint before. The same command goes on."
    )
    speaker = Thread(target=say, args=(told,), daemon=True)
    speaker.start()
    speaker.join(_LAST_WORD_SECONDS)
    os._exit(INTERRUPTED)
