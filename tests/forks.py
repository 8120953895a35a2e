"""A process that has imported everything and forks: a run of the command line begins in milliseconds, and may
be killed.

    with Forks("mlflow") as forks:
        ended = forks.run("sweeper.__main__:main", ["list"], folder, {"SWEEPER_FAILPOINT": "3"})
        running = forks.start(["+experiment=summarize"], folder)

Orphans of a run become children of the process that forks, so that it knows of them. Linux alone has that;
elsewhere, where some libraries don't bear a fork, `start` starts Python anew.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TextIO

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LEAVING_SECONDS = 20.0
"""Processes of a run that has ended may take so long to notice."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    """As `subprocess.Popen.returncode`: below zero a signal's number."""
    output: str
    orphans: tuple[int, ...]
    """Processes of the run that were still there some time after it."""
    seconds: float


@dataclass(frozen=True)
class Kill:
    """A signal that is sent `after` so many seconds."""

    after: float
    signal: int = signal.SIGKILL
    victim: str = "coordinator"
    """Or a `worker` of it, the eldest of its children; itself where it has none."""


@dataclass(eq=False)
class Running:
    """A run that goes on while a test does something else; used as `subprocess.Popen` is."""

    pid: int
    stdout: TextIO
    """What it says, errors too."""
    _code: Callable[[], int | None] = field(repr=False)
    returncode: int | None = None
    _reader: threading.Thread | None = field(default=None, repr=False)
    _said: list[str] = field(default_factory=list, repr=False)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._code()
        return self.returncode

    def wait(self, timeout: float = 300.0) -> int:
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired("a run", timeout)
            time.sleep(0.003)
        return code

    def communicate(self, timeout: float = 300.0) -> tuple[str, None]:
        """What it says from now on, up to its end."""
        until = time.monotonic() + timeout
        if self._reader is None and not self.stdout.closed:
            self._reader = threading.Thread(target=lambda: self._said.append(self.stdout.read()), daemon=True)
            self._reader.start()
        if self._reader is not None:
            self._reader.join(timeout)
            if self._reader.is_alive():
                raise subprocess.TimeoutExpired("a run", timeout)
        self.stdout.close()
        self.wait(max(until - time.monotonic(), 1.0))
        return "".join(self._said), None


class Forks:
    """`modules` are imported once, beside the command line."""

    def __init__(self, *modules: str) -> None:
        self._pipes = tempfile.TemporaryDirectory(prefix="forks-")
        self._numbers = count()
        self._started: list[Running | subprocess.Popen[str]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", "sweeper.app", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | _ONE_THREAD,
        )

    def __enter__(self) -> "Forks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._pipes, self._process:  # which closes its pipes, and waits for it
            if kind is not None:
                self._process.kill()

    def run(
        self,
        function: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        kill: Kill | None = None,
        timeout: float = 300.0,
    ) -> Ended:
        """Call `module:function` with `arguments` in `folder`; what it gives back is the exit code.

        What has been started before has to have ended.
        """
        answer = self._ask(
            do="run",
            function=function,
            arguments=list(arguments),
            folder=str(folder),
            environment={**os.environ, **(environment or {}), **_ONE_THREAD},
            output=str(folder / ".output"),
            imported=str(folder / ".imported"),
            kill=None if kill is None else [kill.after, kill.signal, kill.victim],
            timeout=timeout,
        )
        return Ended(answer["code"], answer["output"], tuple(answer["orphans"]), answer["seconds"])

    def start(self, arguments: Sequence[str], folder: Path) -> "Running | subprocess.Popen[str]":
        """Begin `python -m sweeper` with `arguments` in `folder`. It ends as a process of Python does."""
        if sys.platform != "linux":
            command = [sys.executable, "-m", "sweeper", *arguments]
            process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            self._started.append(process)
            return process
        pipe = Path(self._pipes.name) / str(next(self._numbers))
        os.mkfifo(pipe)
        end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # before anybody writes, so that nobody waits
        pid = self._ask(
            do="start",
            function="sweeper.__main__:main",
            arguments=list(arguments),
            folder=str(folder),
            environment={**os.environ, **_ONE_THREAD},
            output=str(pipe),
            imported=f"{pipe}.imported",
        )
        os.set_blocking(end, True)
        said = open(end, encoding="utf-8", errors="replace")  # noqa: SIM115 - until the run is over
        running = Running(pid, said, lambda: self._ask(do="poll", pid=pid))
        self._started.append(running)
        return running

    def end_all(self) -> None:
        """Kill what has been started and still runs."""
        for run in self._started:
            run.kill()
            run.wait(30)
            if run.stdout is not None:
                run.stdout.close()
        self._started.clear()

    def _ask(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        number = next(self._numbers)
        print(json.dumps(order | {"number": number}), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer["number"] == number:  # else one that somebody was interrupted in waiting for
                return answer["said"]
        raise RuntimeError(f"the process that forks has ended with exit code {self._process.wait()}")


class _Server:
    """Carries out orders, one after the other."""

    def __init__(self) -> None:
        self._imported: dict[int, Path] = {}
        """Where runs that go on leave the names of modules that they had to import."""
        self._codes: dict[int, int] = {}
        """Exit codes of those that have ended."""

    def serve(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            said = {"run": self.run, "start": self.start, "poll": self.poll}[order["do"]](order)
            print(json.dumps({"number": order["number"], "said": said}), flush=True)
        for left in _children(os.getpid()):
            os.kill(left, signal.SIGKILL)

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        output = Path(order["output"])
        output.unlink(missing_ok=True)
        began = time.monotonic()
        child = self.start(order)
        kill = order["kill"]
        while (code := self.poll({"pid": child})) is None:
            seconds = time.monotonic() - began
            if kill is not None and seconds >= kill[0]:
                _, number, victim = kill
                kill = None
                os.kill(child if victim == "coordinator" else next(iter(_children(child)), child), number)
            if seconds > order["timeout"]:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.003)
        seconds = time.monotonic() - began
        return {"code": code, "output": _text(output), "orphans": _orphans(), "seconds": seconds}

    def start(self, order: Mapping[str, Any]) -> int:
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        gc.collect()
        gc.freeze()  # nothing of it has to be looked through, and so copied, by a child
        child = os.fork()
        if child == 0:
            _be(order, output)
        os.close(output)
        self._imported[child] = Path(order["imported"])
        return child

    def poll(self, order: Mapping[str, Any]) -> int | None:
        """The exit code; None while there is none."""
        for adopted in set(_children(os.getpid())) - self._imported.keys():
            os.waitpid(adopted, os.WNOHANG)  # as the system's first process does
        pid = order["pid"]
        if pid in self._imported:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._codes[pid] = os.waitstatus_to_exitcode(status)
                _import(self._imported.pop(pid))
        return self._codes.get(pid)


def _import(names: Path) -> None:
    """What a run had to import, the next one finds imported."""
    if names.exists():
        for module in json.loads(names.read_text()):
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        names.unlink()


def _be(order: Mapping[str, Any], output: int) -> NoReturn:
    """Be the run, and end."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        code = _child(order, output)
    except BaseException:
        traceback.print_exc()
    if order["do"] == "run":
        os._exit(code)
    sys.exit(code)  # through all that Python does at its end


def _child(order: Mapping[str, Any], output: int) -> int:
    before = set(sys.modules)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    from sweeper import failpoints

    failpoints.arm()
    module, _, name = order["function"].partition(":")
    code = getattr(importlib.import_module(module), name)(order["arguments"])
    if new := sorted(set(sys.modules) - before):
        Path(order["imported"]).write_text(json.dumps(new))
    if order["do"] == "run":
        sys.stdout.flush()
        sys.stderr.flush()
    return int(code or 0)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _children(process: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:  # it has just ended
        return []


def _orphans() -> list[int]:
    """Children that nobody here has made, and that don't go away."""
    deadline = time.monotonic() + _LEAVING_SECONDS
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        if time.monotonic() > deadline:
            left = _children(os.getpid())
            for one in left:
                os.kill(one, signal.SIGKILL)
            return left
        time.sleep(0.01)


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for imported in sys.argv[1:]:
        importlib.import_module(imported)
    _Server().serve()
