"""How a sweep was started: noted, read back, and no secret in it."""

import json
import platform

from sweeper import provenance
from sweeper.__main__ import main
from sweeper.layout import Layout
from tests.sweeps import REPLAY


def test_what_is_noted_is_read_back(tmp_path):
    layout = Layout(tmp_path, "mine")
    assert provenance.read(layout) is None
    provenance.write(layout, "python -m sweeper +experiment=mine")
    noted = provenance.read(layout)
    assert noted is not None
    assert noted.command == "python -m sweeper +experiment=mine"
    assert noted.python == platform.python_version()
    assert {"torch", "peft", "optuna"} <= noted.versions.keys()
    assert platform.machine() in noted.machine


def test_a_note_that_is_none_is_read_as_missing(tmp_path):
    layout = Layout(tmp_path, "mine")
    layout.folder.mkdir()
    for text in ("", "{", json.dumps({"command": 1}), "[]"):
        layout.provenance.write_text(text)
        assert provenance.read(layout) is None


def test_a_run_notes_its_command_without_secrets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    uri = "+tracking.uri=http://me:hunter2@127.0.0.1:1"
    assert main([*REPLAY, "budget.trials=1", uri, 'task.prompt="Say: {input}"']) == 0
    noted = provenance.read(Layout(tmp_path / "sweeps", "summarize"))
    assert noted is not None
    assert "hunter2" not in noted.command
    assert "+tracking.uri=http://me:***@127.0.0.1:1" in noted.command
    assert """'task.prompt="Say: {input}"'""" in noted.command
    assert "hunter2" not in (tmp_path / "sweeps/summarize/report.html").read_text()
