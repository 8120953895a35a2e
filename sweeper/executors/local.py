"""Workers in processes of their own on this machine: one for each GPU, or several that share a device."""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, cast

from sweeper.config import Config
from sweeper.coordinator import Coordinator
from sweeper.errors import SweeperError, SweepFailed
from sweeper.executors import spawned
from sweeper.executors.line import LOOK_SECONDS, OF_THE_COORDINATOR, STARTS, Line, for_workers
from sweeper.executors.places import Place, in_words, threads_each
from sweeper.layout import Layout
from sweeper.terminal.plain import shown

_LOG = logging.getLogger(__name__)

_LEAVE_SECONDS = 5.0
"""For a process whose pipe has ended, or that was killed."""
_ALIKE_SECONDS = 60.0
"""Between lines of several workers that count as one."""


class LocalExecutor:
    """A process at each of `places`; this one answers them all, in one thread, as their calls arrive."""

    elsewhere = True

    def __init__(self, config: Config, layout: Layout, places: Sequence[Place]) -> None:
        self._config = config
        self._layout = layout
        self._places = places
        self.workers = len(places)
        self.about = f"{in_words(places)}, {'each ' if self.workers > 1 else ''}in a process of its own"

    def run(self, coordinator: Coordinator) -> None:
        """Train until the coordinator says Done to all workers, replacing those that die or hang."""
        crew = _Crew(self._config, self._layout, coordinator, threads_each(self.workers))
        try:
            for place in self._places:
                crew.start(place)
            while crew.workers:
                crew.answer()
                crew.look_after()
        finally:
            for worker in crew.workers:
                worker.kill()
                worker.close()
        if crew.error is not None:
            raise crew.error


class _Crew:
    """The workers there are, and what becomes of those that are lost."""

    def __init__(self, config: Config, layout: Layout, coordinator: Coordinator, threads: int) -> None:
        self.workers: list[_Process] = []
        self.error: SweeperError | None = None
        """Why the sweep can't go on."""
        self._coordinator = coordinator
        self._work = (for_workers(config), layout.rows)
        self._silence = config.executor.silence_seconds or 0.0
        self._threads = threads
        self._is_over = False
        self._told: dict[str, float] = {}

    def start(self, place: Place, in_vain: int = 0) -> None:
        """A new worker at `place`, where so many before it have not come to take a trial."""
        line = Line(self._coordinator)
        self.workers.append(_Process(place, self._work, self._threads, line, in_vain))

    def answer(self) -> None:
        """Answer every worker that has called, and tell what they have printed."""
        sources = {source: one for one in self.workers if not one.is_gone for source in one.sources}
        for source in wait(list(sources), LOOK_SECONDS):
            worker = sources[source]
            if source is worker.pipe:
                self._answer(worker)
            else:
                self._tell(worker)

    def look_after(self) -> None:
        """Bury the dead, kill those that hang, and those that still load when nothing is left to do."""
        for worker in list(self.workers):
            line = worker.line
            if worker.is_gone:
                self._lose(worker, worker.bury())
            elif worker.pipe.poll():
                pass  # it has called meanwhile
            elif how := line.hangs(self._silence):
                worker.kill()
                self._lose(worker, how)
            elif (self._is_over or self._coordinator.stopped) and not line.has_loaded:
                worker.kill()
                self._lose(worker, "was not needed any more")

    def _answer(self, worker: "_Process") -> None:
        try:
            verb, *said = worker.pipe.recv()
        except (EOFError, OSError):
            worker.is_gone = True
            return
        if verb == spawned.FAIL:
            self._end(*said)
            return
        answer = getattr(worker.line, verb)(*said)
        with suppress(OSError):  # it died meanwhile, as its pipe's end will tell
            worker.pipe.send(answer)
        self._is_over = self._is_over or worker.line.is_done

    def _tell(self, worker: "_Process") -> None:
        """What several workers print alike at about the same time is told once."""
        now = time.monotonic()
        for line in worker.lines():
            if now - self._told.get(line, -math.inf) > _ALIKE_SECONDS:
                with suppress(BrokenPipeError):  # nobody reads that any more
                    print(shown(line), file=sys.stderr)
                self._told[line] = now

    def _lose(self, worker: "_Process", how: str) -> None:
        """Give back the trials of a worker that is gone, and replace it if there is something left to do."""
        self.workers.remove(worker)
        self._tell(worker)
        worker.close()
        worker.line.cut(f"its worker {how}")
        if self._is_over or self._coordinator.stopped:
            return
        in_vain = 0 if worker.line.has_trained else worker.in_vain + 1
        if in_vain < STARTS:
            self.start(worker.place, in_vain)
            return
        told = f"{in_vain} workers in a row were lost before they took a trial; the last one {how}"
        if self.workers:
            _LOG.warning("%s on %s: going on without one there", told, worker.place.device or "this machine")
        else:
            self._end(SweepFailed(f"{told}. What they printed stands above"))

    def _end(self, error: SweeperError) -> None:
        """Have the other workers save their trials: what stopped one awaits them, too."""
        self.error = self.error or error
        self._coordinator.stop("a worker could not go on")


class _Process:
    """The process of one worker, as its parent sees it."""

    def __init__(
        self, place: Place, work: tuple[Config, Path], threads: int, line: Line, in_vain: int
    ) -> None:
        self.place = place
        self.line = line
        self.in_vain = in_vain
        self.is_gone = False
        """True once its pipe has ended."""
        self.pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-u", "-P", "-m", spawned.__name__, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=_environment(place, threads),
                start_new_session=True,  # a terminal's Ctrl-C is the parent's alone
            )
        self._output = cast(IO[bytes], self._process.stdout)
        os.set_blocking(self._output.fileno(), False)
        self._prints = True
        self._unfinished = b""
        with suppress(OSError):  # it died meanwhile, as its pipe's end will tell
            self.pipe.send(work)

    @property
    def sources(self) -> tuple[Any, ...]:
        """What to wait for: its calls, and what it prints."""
        return (self.pipe, self._output) if self._prints else (self.pipe,)

    def lines(self) -> list[str]:
        """What it has printed since the last time; of a bar that overwrites itself, how it looks now."""
        with suppress(BlockingIOError):
            while self._prints:
                part = os.read(self._output.fileno(), 1 << 16)
                self._prints = bool(part)
                self._unfinished += part
        *whole, self._unfinished = self._unfinished.split(b"\n")
        if self._unfinished and not self._prints:
            whole.append(self._unfinished)
        return [line.decode(errors="replace").rstrip("\r").rpartition("\r")[2] for line in whole]

    def bury(self) -> str:
        """Wait for the end of a process whose pipe has ended, and say how it came."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_SECONDS)
        self.kill()
        code = self._process.returncode
        if code is None:
            return "can't be ended"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (
            ", as the system does when memory runs out" if name == "SIGKILL" else ""
        )

    def kill(self) -> None:
        """End it, with everything that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that hangs in a driver outlives even that
            self._process.wait(_LEAVE_SECONDS)

    def close(self) -> None:
        """Let go of its pipes; without its input it ends, if it hasn't yet."""
        for pipe in (self.pipe, self._output, cast(IO[bytes], self._process.stdin)):
            pipe.close()


def _environment(place: Place, threads: int) -> dict[str, str]:
    """That of this process, without ways to the databases, pinned to the place's device.

    A number of threads that is given stays.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_COORDINATOR)}
    pinned = {} if place.visible is None else {"CUDA_VISIBLE_DEVICES": place.visible}
    return {"OMP_NUM_THREADS": str(threads)} | inherited | pinned
