"""The process of one worker, started by hand: when it ends by itself."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe

import psutil
import pytest

from sweeper.executors import spawned
from tests.test_executor_contract import is_alive

CHILD = (
    "import os, subprocess, sys\n"
    "if 'sweeper.executors.spawned' in sys.orig_argv:\n"
    "    print(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
)


@pytest.fixture
def start(tmp_path):
    """Start a worker's process, with a child of its own, for a parent of that number."""
    started = []
    (tmp_path / "sitecustomize.py").write_text(CHILD)

    def begin(parent):
        ours, theirs = Pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", spawned.__name__, str(theirs.fileno()), str(parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            start_new_session=True,
        )
        theirs.close()
        started.append((process, ours))
        return process, psutil.Process(int(process.stdout.readline()))

    yield begin
    for process, pipe in started:
        for stream in (process.stdin, process.stdout, pipe):
            stream.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_it_ends_with_its_input_and_takes_along_what_it_started(start):
    process, child = start(os.getpid())
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL
    psutil.wait_procs([child], timeout=20)
    assert not is_alive(child)


def test_it_does_not_begin_for_a_parent_that_is_gone(start):
    process, _ = start(1)
    assert process.wait(60) == 1
