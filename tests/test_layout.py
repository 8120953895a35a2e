"""Where things are, and writing that is never seen half done."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from sweeper.layout import Layout, write_atomically
from sweeper.messages import BASE

LAYOUT = Layout(Path("sweeps"), "mine")
AUDIT = (LAYOUT.audit, LAYOUT.audit_page, LAYOUT.queue)
LATER = (LAYOUT.inbox, LAYOUT.exports, LAYOUT.training.folder)


def test_databases_are_shared_and_the_rest_is_the_sweeps_own() -> None:
    assert LAYOUT.study_url == "sqlite:///sweeps/study.db"
    assert LAYOUT.tracking_url == "sqlite:///sweeps/mlflow.db"
    own = (
        LAYOUT.config,
        LAYOUT.lock,
        LAYOUT.holder,
        LAYOUT.rows,
        LAYOUT.best,
        LAYOUT.trial(0),
        *AUDIT,
        *LATER,
    )
    assert all(path.is_relative_to(LAYOUT.folder) for path in own)
    assert len(set(own)) == len(own)


def test_a_verdict_lies_in_its_sweeps_folder_and_takes_its_rows() -> None:
    runs = LAYOUT.verdict
    assert runs.name == "mine/verdict"
    assert runs.trial(3) == Path("sweeps/mine/verdict/trials/0003")
    assert (runs.rows, runs.study_url, runs.tracking_url) == (
        LAYOUT.rows,
        LAYOUT.study_url,
        LAYOUT.tracking_url,
    )
    assert runs.sweep == LAYOUT.sweep == LAYOUT
    assert "ROOT/NAME/verdict/trials/0003/" in (Layout.__doc__ or "")


def test_an_absolute_root_gives_an_absolute_url(tmp_path: Path) -> None:
    assert Layout(tmp_path, "mine").study_url == f"sqlite:///{tmp_path}/study.db"


def test_trials_and_attempts_have_folders() -> None:
    assert LAYOUT.trial(7) == Path("sweeps/mine/trials/0007")
    assert LAYOUT.trial(12345).name == "12345"
    assert LAYOUT.trial(BASE).name == "base"
    assert LAYOUT.metrics(7) == LAYOUT.trial(7) / "metrics.jsonl"
    assert Layout.attempt(LAYOUT.trial(7), 2) == LAYOUT.trial(7) / "attempt-2"


def test_the_docstring_draws_what_there_is() -> None:
    drawn = Layout.__doc__ or ""
    files = (LAYOUT.config, LAYOUT.lock, LAYOUT.holder, LAYOUT.rows, LAYOUT.best, LAYOUT.metrics(7), *AUDIT)
    files += (LAYOUT.report, LAYOUT.card, LAYOUT.provenance)
    files += LATER
    for path in files:
        assert str(path).replace("sweeps/mine", "ROOT/NAME") in drawn


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    texts = ["a" * 200_000, "b" * 200_000]
    write_atomically(path, texts[0])
    done = threading.Event()

    def write() -> None:
        for round_ in range(50):
            write_atomically(path, texts[round_ % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_text() in texts
    writer.join()
    assert os.listdir(path.parent) == ["state.json"]


def test_what_dead_processes_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "mine")
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = (
        layout.folder / ".report.html",
        layout.inbox / ".0001-ab.json",
        layout.verdict.folder / ".t.json",
    )
    left = [path.with_name(f"{path.name}.{ended.pid}") for path in names]
    kept = [layout.folder / f".report.html.{os.getpid()}", layout.folder / ".mine", layout.report]
    for path in (*left, *kept, layout.doomed / "study.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    layout.clear_away()
    assert not any(path.exists() for path in (*left, layout.doomed))
    assert all(path.exists() for path in kept)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
