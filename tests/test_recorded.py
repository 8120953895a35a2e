"""Sweeps that an earlier version began go on: same command, same settings, rows and numbers."""

import hashlib
import json

import pytest

from sweeper.study.study import Study
from tests import recorded
from tests.journeys import MAIN


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "sweeps/recorded/rows").iterdir()
    }


def told(folder):
    """What defines the sweep, as its study remembers it."""
    sweeps = folder / "sweeps"
    return json.dumps(
        Study.read(f"sqlite:///{sweeps / 'study.db'}", "recorded", sweeps / "recorded").fingerprint
    )


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("generate", "task.max_input_tokens=7"),
        ("chat", "task.max_answer_tokens=100"),
    ],
)
def test_a_sweep_begun_by_an_earlier_version_goes_on(kind, changed, forks, tmp_path):
    expected = recorded.unpack(kind, tmp_path)
    begun, rows, defined = recorded.outcome(tmp_path), digests(tmp_path), told(tmp_path)
    finished = [trial for trial in begun if trial["state"] == "finished"]
    assert len(finished) < len(expected)

    refused = forks.run(MAIN, [*recorded.COMMANDS[kind], changed], tmp_path)
    assert refused.code != 0
    assert f"  {changed.partition('=')[0]}: " in refused.output, refused.output
    assert (digests(tmp_path), told(tmp_path)) == (rows, defined)

    ended = forks.run(MAIN, recorded.COMMANDS[kind], tmp_path)
    assert ended.code == 0, ended.output
    now = recorded.outcome(tmp_path)
    assert now[: len(finished)] == finished
    assert [trial["params"] for trial in now] == [trial["params"] for trial in expected]
    assert [trial["loss"] for trial in now] == pytest.approx([trial["loss"] for trial in expected], rel=1e-3)
    assert (digests(tmp_path), told(tmp_path)) == (rows, defined)
    assert "Verdict" in ended.output or kind == "chat"

    for verb in ("show", "report"):
        shown = forks.run(MAIN, [verb, "recorded"], tmp_path)
        assert shown.code == 0, shown.output
    assert (tmp_path / "sweeps/recorded/report.html").is_file()
