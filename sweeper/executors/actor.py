"""What runs on a node of a Ray cluster: the actor in which a worker's engine trains."""

import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sweeper import worker
from sweeper.config import Config
from sweeper.errors import ClusterError, DeviceError
from sweeper.executors.line import DEVICE_LOST, Caller
from sweeper.shadowing import leave_out


@dataclass(frozen=True)
class Site:
    """What a node must have: the folder in which the sweep was started, and the one that it writes to."""

    folder: Path
    proof: Path
    word: str
    """What stands in the file `proof`."""

    def enter(self) -> None:
        """Work there. Raises ClusterError if this node can't."""
        node = f"the node {socket.gethostname()}"
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ClusterError(
                f"{node} can't work in {self.folder}, where this sweep was started ({error.strerror}); start "
                "it in a folder that all nodes have under the same path"
            ) from error
        leave_out(self.folder)  # Ray has its workers import from where the sweep was started
        try:
            found = self.proof.read_text(encoding="utf-8")
        except OSError:
            found = ""
        place = self.proof.parent
        if found != self.word or not os.access(place, os.W_OK):
            raise ClusterError(
                f"{node} does not see {place} of this sweep, or may not write there; set sweep.folder to a "
                "folder on a file system that all nodes share under the same path"
            )


Call = tuple[Any, ...]
"""One of a channel's verbs, and what is said with it."""
ARRIVED = "arrived"
"""Beside a channel's verbs: the actor has got its device, and begins to load."""


class Worker(Caller):
    """The actor: the engine in a thread of its own, and the methods by which the coordinator hears of it."""

    def __init__(self, config: Config, rows: Path, site: Site) -> None:
        self._calls: SimpleQueue[Call | Exception | None] = SimpleQueue()
        self._replies: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._work, args=(config, rows, site), daemon=True).start()

    def listen(self) -> Call | None:
        """The engine's next call; None once it has come to its end. Raises what has ended it before."""
        call = self._calls.get()
        if isinstance(call, Exception):
            raise call
        return call

    def answer(self, reply: Any) -> Call | None:
        """Hand the reply to the engine's last call in; gives its next one, as `listen`."""
        self._replies.put(reply)
        return self.listen()

    def _work(self, config: Config, rows: Path, site: Site) -> None:
        try:
            site.enter()
            self.ask(ARRIVED)
            worker.run(config, rows, self)
            self._calls.put(None)
        except DeviceError:
            os._exit(DEVICE_LOST)
        except Exception as error:
            self._calls.put(error)

    def ask(self, verb: str, *said: Any) -> Any:
        """As a channel, in the engine's thread."""
        self._calls.put((verb, *said))
        return self._replies.get()
