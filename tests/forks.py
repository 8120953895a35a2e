"""A process that has imported everything and forks: a run of the command line begins in milliseconds, and may
be killed.

    with Forks("mlflow") as forks:
        ended = forks.run("sweeper.__main__:main", ["list"], folder, {"SWEEPER_FAILPOINT": "3"})
        running = forks.start(["+experiment=summarize"], folder)

Orphans of a run become children of the process that forks, so that it knows of them. Linux alone has that.
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
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

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


@dataclass
class Running:
    """A run that goes on while a test does something else; used as `subprocess.Popen` is."""

    pid: int
    stdout: TextIO
    """What it says, errors too."""
    _wait: Callable[..., int | None] = field(repr=False)
    returncode: int | None = None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._wait(timeout=0.0)
        return self.returncode

    def wait(self, timeout: float = 300.0) -> int:
        if self.returncode is None:
            self.returncode = self._wait(timeout=timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a run", timeout)
        return self.returncode

    def communicate(self, timeout: float = 300.0) -> tuple[str, None]:
        """What it says from now on, up to its end."""
        until = time.monotonic() + timeout
        said: list[str] = []
        if not self.stdout.closed:
            reader = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
            reader.start()
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired("a run", timeout)
            self.stdout.close()
        self.wait(max(until - time.monotonic(), 1.0))
        return "".join(said), None


class Forks:
    """`modules` are imported once, beside the command line."""

    def __init__(self, *modules: str) -> None:
        self._pipes = tempfile.TemporaryDirectory(prefix="forks-")
        self._numbers = count()
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
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._pipes.cleanup()

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

    def start(self, arguments: Sequence[str], folder: Path) -> Running:
        """Begin `python -m sweeper` with `arguments` in `folder`."""
        pipe = Path(self._pipes.name) / str(next(self._numbers))
        os.mkfifo(pipe)
        pid = self._ask(
            do="start",
            function="sweeper.__main__:main",
            arguments=list(arguments),
            folder=str(folder),
            environment={**os.environ, **_ONE_THREAD},
            output=str(pipe),
            imported=(imported := f"{pipe}.imported"),
        )
        wait = partial(self._ask, do="wait", pid=pid, imported=imported)
        return Running(pid, pipe.open(encoding="utf-8", errors="replace"), wait)

    def _ask(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def _serve(modules: Sequence[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for module in modules:
        importlib.import_module(module)
    obey = {"run": _run, "start": _start, "wait": _wait}
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(obey[order["do"]](order)), flush=True)
    for left in _children(os.getpid()):
        os.kill(left, signal.SIGKILL)


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    output = Path(order["output"])
    output.unlink(missing_ok=True)
    began = time.monotonic()
    child = _start(order)
    kill = order["kill"]
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        seconds = time.monotonic() - began
        if kill is not None and seconds >= kill[0]:
            _, number, victim = kill
            kill = None
            os.kill(child if victim == "coordinator" else next(iter(_children(child)), child), number)
        if seconds > order["timeout"]:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.003)
    code = os.waitstatus_to_exitcode(found[1])
    seconds = time.monotonic() - began
    _import(Path(order["imported"]))
    return {"code": code, "output": _text(output), "orphans": _orphans(), "seconds": seconds}


def _start(order: Mapping[str, Any]) -> int:
    gc.collect()
    gc.freeze()  # nothing of it has to be looked through, and so copied, by a child
    child = os.fork()
    if child == 0:
        os._exit(_child(order))
    return child


def _wait(order: Mapping[str, Any]) -> int | None:
    """The exit code; None if it has none in time."""
    until = time.monotonic() + order["timeout"]
    while not (found := os.waitpid(order["pid"], os.WNOHANG))[0]:
        if time.monotonic() >= until:
            return None
        time.sleep(0.003)
    _import(Path(order["imported"]))
    return os.waitstatus_to_exitcode(found[1])


def _import(names: Path) -> None:
    """What a run had to import, the next one finds imported."""
    if names.exists():
        for module in json.loads(names.read_text()):
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        names.unlink()


def _child(order: Mapping[str, Any]) -> int:
    before = set(sys.modules)
    file = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    from sweeper import failpoints

    failpoints.arm()
    module, _, name = order["function"].partition(":")
    try:
        code = getattr(importlib.import_module(module), name)(order["arguments"])
    except BaseException:
        traceback.print_exc()
        code = 70
    if new := sorted(set(sys.modules) - before):
        Path(order["imported"]).write_text(json.dumps(new))
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
    _serve(sys.argv[1:])
