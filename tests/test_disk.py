"""Full disks: real ones, small, in memory; and the room that a sweep needs."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.errors import StorageError, StudyError
from sweeper.events import Measurement
from sweeper.journal import Journal, measurements
from sweeper.layout import Layout, write_atomically
from sweeper.messages import Decision, Ending, Progress
from sweeper.storage.disk import Needs, check_room, naming, needs, raise_if_full
from sweeper.study.study import Study
from tests import tiny
from tests.sweeps import REPLAY


@dataclass
class Disk:
    """A file system of its own, and a file that takes all the room that is left."""

    folder: Path

    def fill(self, leave: int = 0) -> None:
        """All but `leave` bytes."""
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                ballast.truncate(ballast.tell() - leave)

    def make_room(self) -> None:
        (self.folder / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root with the right to mount")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def sweep(disk: Disk, *overrides: str) -> int:
    return main([*REPLAY, f"sweep.folder={disk.folder}", "budget.trials=3", *overrides])


@pytest.mark.parametrize("what", ["the study alone", "the folder alone", "from the start"])
def test_a_disk_that_gets_full_stops_the_sweep_which_goes_on_later(disk, tmp_path, capsys, what):
    folder = tmp_path / "roomy" if what == "the study alone" else disk.folder
    study = (tmp_path if what == "the folder alone" else disk.folder) / "study.db"
    places = (f"sweep.folder={folder}", f"sweep.study=sqlite:///{study}")
    assert main([*REPLAY, "budget.trials=1", *places]) == 0
    disk.fill(leave=0 if what == "from the start" else 40_000)
    assert main([*REPLAY, *places]) == 1
    told = capsys.readouterr().err
    named = study if what == "the study alone" else folder
    assert (
        "can't be written any more: its disk is full. Make room there; what is on the disk is sound" in told
    )
    assert str(named) in told
    assert "Traceback" not in told
    with closing(sqlite3.connect(study)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    disk.make_room()
    assert main([*REPLAY, "budget.trials=3", *places]) == 0
    records = Study.read(f"sqlite:///{study}", "summarize", folder / "summarize").records()
    assert [record.number for record in records][:4] == [-1, 0, 1, 2]
    assert all(record.state.is_over for record in records)


@pytest.mark.parametrize("engine", ["trainer", "packed"])
def test_a_checkpoint_without_room_leaves_the_one_before(disk, engine):
    """The trial does not fail for it: it goes on from the last checkpoint that is whole."""
    overrides = (f"engine={engine}", "engine.report_seconds=1e-9")
    settings = tiny.settings(tiny.config(*overrides))

    def fill_at_the_first_mark(progress: Progress) -> Decision:
        if progress.evaluation is not None:
            disk.fill()
        return Decision.CONTINUE

    with pytest.raises(StorageError, match=r"0000 can't be written any more: its disk is full"):
        tiny.run(tiny.spec(disk.folder, settings), decide=fill_at_the_first_mark, overrides=overrides)
    disk.make_room()
    again = tiny.run(tiny.spec(disk.folder, settings, attempt=2), overrides=overrides)
    (outcome,) = again.outcomes
    assert outcome.ending is Ending.FINISHED
    assert outcome.examples == 12, "the first half was not trained again"
    assert [evaluation.mark for evaluation in again.evaluations] == [12, 24]
    assert not list(disk.folder.glob("**/.writing"))


def test_measurements_without_room_lose_a_line_at_most(disk):
    layout = Layout(disk.folder, "s")
    journal = Journal(layout)
    point = Measurement(0, 1, 0.0, 8, {f"metric_{i}": float(i) for i in range(200)})
    journal.measured(point)
    disk.fill()
    long = replace(point, metrics={f"metric_{i}": float(i) for i in range(5000)})
    with pytest.raises(StorageError, match="its disk is full"), naming(layout.folder):
        journal.measured(long)
    disk.make_room()
    before = len(list(measurements(layout.metrics(0))))
    journal.measured(point)
    assert list(measurements(layout.metrics(0)))[before:] == [point]


def test_a_report_without_room_leaves_the_old_one(disk, capsys):
    assert sweep(disk) == 0
    page = disk.folder / "summarize" / "report.html"
    old = page.read_text()
    disk.fill()
    capsys.readouterr()
    assert main(["report", "summarize", "--folder", str(disk.folder)]) == 1
    assert "can't be written any more: its disk is full" in capsys.readouterr().err
    assert page.read_text() == old
    assert not [path for path in page.parent.iterdir() if path.name.startswith(".report")]
    disk.make_room()
    disk.fill(leave=40_000)
    assert sweep(disk) == 0, "the sweep is complete whatever becomes of its page"
    assert "Warning: " in capsys.readouterr().out
    disk.make_room()
    assert main(["report", "summarize", "--folder", str(disk.folder)]) == 0


def test_half_a_file_takes_no_room(disk):
    path = disk.folder / "file"
    write_atomically(path, "old")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new" * 10**7)
    assert [entry.name for entry in disk.folder.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_disk_that_became_read_only_is_named(disk):
    write_atomically(disk.folder / "file", "text")
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    refused = pytest.raises(StorageError, match=r"disk can't be written any more: Read-only file system")
    with refused, naming(disk.folder):
        write_atomically(disk.folder / "file", "text")


def test_other_errors_are_left_alone():
    raise_if_full(ValueError("a number"), Path())
    with pytest.raises(ValueError, match="a number"), naming(Path()):
        raise ValueError("a number")


def test_room_for_the_first_trials_is_demanded_and_for_all_is_warned_of(tmp_path):
    assert check_room(tmp_path / "new", Needs(0, 0)) == ""
    assert "by its end the sweep may need 1000000.0 GB" in check_room(tmp_path, Needs(0, 10**15))
    with pytest.raises(StudyError, match=r"left and the sweep may need 1000000\.0 GB; make room, or set"):
        check_room(tmp_path, Needs(10**15, 10**15))


def test_what_a_sweep_needs():
    """Nine times the trained weights for each running trial, and once for each that is kept."""
    config = tiny.config("engine=trainer", "verdict=none", "budget.trials=10")
    gigabyte = 10**9
    found, without = needs(config, gigabyte), needs(config, 0)
    assert found.soon - without.soon == 9 * gigabyte
    assert found.in_all - without.in_all == (9 + 10 + 2) * gigabyte
    assert needs(config, gigabyte, kept_already=4).in_all < found.in_all - 3 * gigabyte
    assert needs(config, gigabyte, workers=4).soon - needs(config, 0, workers=4).soon == 4 * 9 * gigabyte
    packed = tiny.config("engine=packed", "engine.slots=3", "verdict=none", "budget.trials=10")
    assert needs(packed, gigabyte).soon - needs(packed, 0).soon == 27 * gigabyte
    judged = tiny.config("engine=trainer", "budget.seeds=3", "budget.finalists=1")
    assert needs(judged, gigabyte).in_all > needs(config, gigabyte).in_all
