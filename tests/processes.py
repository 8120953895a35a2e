"""Commands that tests start as processes of their own, and read from."""

import subprocess

import pytest

from tests.forks import Running


def read_until(process: subprocess.Popen[str] | Running, text: str) -> str:
    """What the process prints up to a line with `text` in it."""
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    pytest.fail(f"{text!r} was never printed:\n{seen}")
