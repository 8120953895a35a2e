"""Who is told to leave leaves in time, whatever keeps it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sweeper.preemption import INTERRUPTED, leaving_in_time

BUSY = """
import hashlib, signal, sys, time
from sweeper.preemption import leaving_in_time
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGINT, lambda *_: None)

def say(text):
    print(text, flush=True)
    {after}

with leaving_in_time(0.5, say):
    print("ready", flush=True)
    {work}
print("done", flush=True)
"""
ONE_LONG_CALL = 'hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000_000)'
SLEEP = "time.sleep(3)"


def busy(work: str, after: str = "pass") -> subprocess.Popen[str]:
    code = BUSY.format(work=work, after=after)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1])
def test_it_leaves_out_of_the_middle_of_a_long_computation(how):
    process = busy(ONE_LONG_CALL)
    process.send_signal(how)
    told = process.communicate(timeout=30)[0]
    assert process.returncode == INTERRUPTED
    assert told == (
        "Leaving after executor.grace_seconds=0.5: what is not saved by now is trained again from the "
        "checkpoint before. The same command goes on.\n"
    )


@pytest.mark.parametrize("after", ["time.sleep(60)", "sys.exit(1)", "raise BrokenPipeError"])
def test_a_last_word_that_nobody_takes_holds_it_up_no_longer(after):
    process = busy(ONE_LONG_CALL, after)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED


def test_ctrl_c_sets_no_limit():
    process = busy(SLEEP)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "done\n"
    assert process.returncode == 0


def test_who_leaves_by_itself_is_not_hurried(capsys):
    """This process would end otherwise."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with leaving_in_time(0.3, print):
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1
    assert capsys.readouterr().out == ""
