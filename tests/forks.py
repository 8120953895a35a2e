"""A process that has imported everything and forks: a run of the command line begins in milliseconds, and may
be killed.

    with Forks("mlflow") as forks:
        ended = forks.run("sweeper.__main__:main", ["list"], folder, {"SWEEPER_FAILPOINT": "3"})

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
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
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


class Forks:
    """`modules` are imported once, beside the command line."""

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", "sweeper.app", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
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

    def run(
        self,
        function: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        kill: Kill | None = None,
        timeout: float = 300.0,
    ) -> Ended:
        """Call `module:function` with `arguments` in `folder`; what it gives back is the exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "function": function,
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment or {}),
            "kill": None if kill is None else [kill.after, kill.signal, kill.victim],
            "timeout": timeout,
        }
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Ended(answer["code"], answer["output"], tuple(answer["orphans"]), answer["seconds"])


def _serve(modules: Sequence[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_carry_out(json.loads(line))), flush=True)


def _carry_out(order: Mapping[str, Any]) -> dict[str, Any]:
    output = Path(order["folder"]) / ".output"
    output.unlink(missing_ok=True)
    imported = output.with_suffix(".imported")
    gc.collect()
    gc.freeze()  # nothing of it has to be looked through, and so copied, by a child
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_child(order, output, imported))
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
    if imported.exists():
        # What this run had to import, the next one finds imported.
        for module in json.loads(imported.read_text()):
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        imported.unlink()
    return {"code": code, "output": _text(output), "orphans": _orphans(), "seconds": seconds}


def _child(order: Mapping[str, Any], output: Path, imported: Path) -> int:
    before = set(sys.modules)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["folder"])
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
        imported.write_text(json.dumps(new))
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
