"""What runs in the process of one worker: `python -m sweeper.executors.spawned PIPE PARENT`.

PIPE is the number of an inherited descriptor, PARENT the process at its other end. Configuration and folder
of rows come down first; then a call goes up, its verb before what is said, and its answer comes down.

The process ends with its parent, however that ends: standard input is a pipe on which nothing ever comes but
its end, and Linux sends SIGKILL besides, which reaches a stopped process too. Signals are the parent's
business.
"""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from sweeper import worker
from sweeper.errors import DeviceError, SweeperError
from sweeper.executors.line import DEVICE_LOST, Caller, broke_off

_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
FAIL = "fail"
"""Beside a channel's three verbs: said with the error that ended the worker."""


class _Piped(Caller):
    """A channel whose other end is in the parent."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection

    def ask(self, verb: str, *said: Any) -> Any:
        self._connection.send((verb, *said))
        return self._connection.recv()


def main(pipe: int, parent: int) -> None:
    """Work for the parent to the end; never returns."""
    _end_with(parent)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    faulthandler.enable()
    connection: Connection[Any, Any] = Connection(pipe)
    try:
        config, rows = connection.recv()
        worker.run(config, rows, _Piped(connection))
    except DeviceError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(DEVICE_LOST)
    except SweeperError as error:
        connection.send((FAIL, error))
    except Exception as error:
        traceback.print_exc()
        connection.send((FAIL, broke_off(error)))
    sys.stdout.flush()
    sys.stderr.flush()
    # A GPU's libraries take their time to leave in order, and there is nothing left to put in order.
    os._exit(0)


def _end_with(parent: int) -> None:
    """End this process, and those it has started, when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_read_to_the_end, daemon=True).start()


def _read_to_the_end() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
