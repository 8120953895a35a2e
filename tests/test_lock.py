"""One living coordinator per sweep."""

import errno
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from sweeper.errors import StudyError
from sweeper.layout import Layout
from sweeper.storage import lock
from tests.sweeps import REPLAY

HOLD = """
import sys, time
from pathlib import Path
from sweeper.storage import lock
from sweeper.layout import Layout
with lock.hold(Layout(Path(sys.argv[1]), "s")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_and_told_who_holds_it(tmp_path):
    layout = Layout(tmp_path, "s")
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        assert lock.is_held(layout)
        with pytest.raises(StudyError, match=f"is being run by process {other.pid} on"), lock.hold(layout):
            pass
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate(timeout=30)
    assert not lock.is_held(layout), "a dead process holds nothing"
    with lock.hold(layout):
        assert lock.is_held(layout)


def test_an_unreadable_holder_is_another_process(tmp_path):
    layout = Layout(tmp_path, "s")
    with lock.hold(layout):
        layout.holder.write_text("{")
        with pytest.raises(StudyError, match="is being run by another process"), lock.hold(layout):
            pass


def test_a_sweep_that_never_ran_is_not_held(tmp_path):
    assert not lock.is_held(Layout(tmp_path, "never"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused = pytest.raises(StudyError, match=r"file/s can't be written: .*set sweep\.folder")
    with refused, lock.hold(Layout(tmp_path / "file", "s")):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, number):
    """What NFS answers without its lock daemon; a lock that outlives a kill is no way out."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    refused = pytest.raises(StudyError, match=r"/s has no locks that vanish with a process .*NFS version 4")
    with refused, lock.hold(Layout(tmp_path, "s")):
        pass


def test_a_dead_holder_is_not_named(tmp_path):
    layout = Layout(tmp_path, "s")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.communicate(timeout=30)
    with lock.hold(layout):
        layout.holder.write_text(json.dumps({"host": os.uname().nodename, "process": gone.pid}))
        with pytest.raises(StudyError, match="is being run by another process"), lock.hold(layout):
            pass
        layout.holder.write_text(json.dumps({"host": "elsewhere", "process": 1}))
        with pytest.raises(StudyError, match="is being run by process 1 on elsewhere"), lock.hold(layout):
            pass


def test_of_eight_first_starts_at_once_one_wins(forks, tmp_path):
    """Nothing is there yet: neither the folder nor a database."""
    command = [*REPLAY, "engine.speedup=1", "tracking=mlflow"]
    starts = [forks.start(command, tmp_path) for _ in range(8)]
    while sum(start.poll() is None for start in starts) > 1:
        time.sleep(0.2)
    (winner,) = [start for start in starts if start.poll() is None]
    time.sleep(2)
    winner.send_signal(signal.SIGTERM)
    told = {start: start.communicate(timeout=240)[0] for start in starts}
    assert winner.returncode == 130, told[winner]
    for start in starts:
        if start is not winner:
            assert start.returncode == 2
            says = f"`summarize` is being run by process {winner.pid} on {os.uname().nodename}"
            assert says in told[start]
    for name in ("study.db", "mlflow.db"):
        with closing(sqlite3.connect(tmp_path / "sweeps" / name)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
