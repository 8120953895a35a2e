"""One living coordinator per sweep."""

import os
import signal
import subprocess
import sys

import pytest

from sweeper import lock
from sweeper.errors import StudyError
from sweeper.layout import Layout

HOLD = """
import sys, time
from pathlib import Path
from sweeper import lock
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
