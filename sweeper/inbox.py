"""Commands from other terminals: a file each, renamed into place, obeyed by the coordinator alone.

A letter lies in the inbox until what it asks for is done, and what is asked for twice is done once: a trial
remembers the letter that it was enqueued by, and one that is over isn't stopped again. So a kill at any
moment loses nothing and doubles nothing.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sweeper.config.types import STRICT, NonNegative
from sweeper.engines import checkpoints
from sweeper.entry import Scalar
from sweeper.errors import ConfigError, Fault, InputError
from sweeper.events import TrialRecord
from sweeper.failpoints import reach
from sweeper.layout import Layout, write_atomically
from sweeper.loading import read
from sweeper.messages import TrialState
from sweeper.study.study import Study

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _End:
    """End a trial before its time."""

    __pydantic_config__ = STRICT

    trial: NonNegative
    why: str = ""
    """In the words of whoever stops it."""

    @property
    def reason(self) -> str:
        """Why it ended, as the trial tells it."""
        done = "pruned" if isinstance(self, Prune) else "stopped"
        return f"{done} by hand" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True)
class Stop(_End):
    """Finish a trial where it is: what it has reached counts, and its best adapter is kept."""


@dataclass(frozen=True)
class Prune(_End):
    """Give a trial up: it counts as pruned, and no adapter of it is kept."""


@dataclass(frozen=True)
class Enqueue:
    """Train a trial with these settings next."""

    __pydantic_config__ = STRICT

    params: Mapping[str, Scalar]
    """Every setting that varies under these settings, by dotted name."""
    origin: str
    """Where they come from, in words."""


Command = Stop | Prune | Enqueue

_KINDS: Mapping[str, type[Stop] | type[Prune] | type[Enqueue]] = {
    "stop": Stop,
    "prune": Prune,
    "enqueue": Enqueue,
}


@dataclass(frozen=True)
class Orders:
    """What an opened inbox leaves to the coordinator."""

    stops: Mapping[int, Stop | Prune]
    """Running trials that are to end."""
    ended: tuple[TrialRecord, ...]
    """Trials that were waiting, and are over now."""


class Inbox:
    """The inbox of one sweep."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.inbox
        self._layout = layout

    def put(self, command: Command) -> None:
        """Leave a command for the coordinator, running now or later."""
        verb = next(verb for verb, kind in _KINDS.items() if isinstance(command, kind))
        # In the order of writing; the rest of the name keeps two terminals apart.
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        write_atomically(self._folder / name, json.dumps({verb: asdict(command)}))
        reach("inbox.put")

    def waiting(self) -> list[Command]:
        """What has not been done yet, the oldest first."""
        commands = []
        for path in self._letters():
            with suppress(ConfigError, FileNotFoundError):  # done meanwhile
                commands.append(_read(path))
        return commands

    def open(self, study: Study, budget: int) -> Orders:
        """Do what can be done. A trial is enqueued once there is room for it among `budget` trials."""
        stops: dict[int, Stop | Prune] = {}
        ended: list[TrialRecord] = []
        for path in self._letters():
            try:
                command = _read(path)
                if isinstance(command, Enqueue):
                    is_done = study.enqueue_asked(command.params, command.origin, path.stem, budget)
                else:
                    state = study.state(command.trial)
                    is_done = state is not TrialState.RUNNING
                    if state is TrialState.RUNNING:
                        stops[command.trial] = command
                    elif state is TrialState.WAITING:
                        ended.append(self._end(command, study))
            except InputError as error:
                refused = path.with_suffix(".refused")
                os.replace(path, refused)
                reach("inbox.refused")
                _log.warning("A command could not be obeyed and is now %s. %s", refused, error)
            else:
                if is_done:
                    reach("inbox.obeyed")
                    path.unlink()
                    reach("inbox.emptied")
        return Orders(stops, tuple(ended))

    def _end(self, command: Stop | Prune, study: Study) -> TrialRecord:
        """End a trial that waits: where it is kept, from its newest checkpoint."""
        if isinstance(command, Prune):
            return study.give_up(command.trial, command.reason)
        folder = self._layout.trial(command.trial)
        found = checkpoints.newest(folder)
        state, adapter = found.state if found else checkpoints.TrialState(), None
        if state.best_folder is not None:
            adapter = checkpoints.publish(folder / state.best_folder, folder / "attempt-0" / "best")
        return study.stop(command.trial, command.reason, state.best, adapter)

    def _letters(self) -> list[Path]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [self._folder / name for name in sorted(names) if name.endswith(".json")]


def _read(path: Path) -> Command:
    try:
        ((verb, tree),) = json.loads(path.read_text(encoding="utf-8")).items()
        kind = _KINDS[verb]
    except (ValueError, KeyError, AttributeError, RecursionError, IsADirectoryError) as error:
        raise ConfigError(
            [Fault(path.name, "is no command; write it with python -m sweeper trials")], "command"
        ) from error
    return read(kind, tree, verb)
