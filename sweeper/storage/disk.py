"""Room on the disk: what a sweep is going to need, and what is said when there is none left."""

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sweeper.config import Config
from sweeper.errors import StorageError, StudyError, SweeperError

_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "database or disk is full",
    "PytorchStreamWriter failed",
    "inline_container.cc",
)
"""What libraries say that hide the error number: safetensors, shutil, SQLite, torch (the last two)."""

_IN_A_CHECKPOINT = 3
"""Numbers kept for each trained one: itself and AdamW's two moments."""
_SLOTS = 16
"""Trials at once where the engine chooses by itself."""
_BASIS, _PER_TRIAL = 2 * 10**8, 10**6
"""Bytes for rows, databases and pages, and for the measurements of a trial."""


@dataclass(frozen=True)
class Needs:
    """What a sweep writes, in bytes."""

    soon: int
    """While its first trials are trained."""
    in_all: int
    """By its end."""


def needs(config: Config, trained: int, workers: int = 1, kept_already: int = 0) -> Needs:
    """For trials with `trained` bytes of trained weights; those of `kept_already` trials are on the disk.

    A running trial has its best and its last checkpoint and one that is being written. Of a finished one its
    best weights stay, also of the runs of the verdict; the best of all are copied once, and once for MLflow.
    """
    engine, budget = config.engine, config.budget
    at_once = workers * (1 if engine.name == "trainer" else engine.slots or _SLOTS)
    soon = _BASIS + min(at_once, budget.trials) * 3 * _IN_A_CHECKPOINT * trained
    runs = (budget.finalists + 1) * budget.seeds if config.verdict.name != "none" else 0
    kept = max(0, budget.trials + runs - kept_already)
    return Needs(soon, soon + (kept + 2) * trained + kept * _PER_TRIAL)


def check_room(folder: Path, needed: Needs) -> str:
    """A warning if the disk of `folder` may get full on the way; raises StudyError if it will at once."""
    there = next(p for p in [folder, *folder.parents, Path()] if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed.soon:
        raise StudyError(
            f"{there} has {_size(free)} left and the sweep may need {_size(needed.soon)}; "
            "make room, or set sweep.folder to another disk"
        )
    if free < needed.in_all:
        return (
            f"{there} has {_size(free)} left, and by its end the sweep may need {_size(needed.in_all)}. When "
            "the disk is full it stops, and goes on once there is room."
        )
    return ""


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Have what a full or failing disk raises in here say so: as StorageError, with the folder's name."""
    try:
        yield
    except SweeperError:
        raise
    except Exception as error:
        raise_if_full(error, folder)
        raise


def raise_if_full(error: BaseException, place: Path | str) -> None:
    """Raise StorageError if `error` comes from a disk, that of `place`, which takes nothing more."""
    if why := _fault(error):
        raise StorageError(
            f"{place} can't be written any more: {why}. Make room there; what is on the disk is sound, and "
            "the same command goes on with it"
        ) from error


def _fault(error: BaseException | None) -> str:
    """What is wrong with the disk, as far as `error` or its causes tell; empty if nothing is."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or any(word in str(error) for word in _WORDS):
            return "its disk is full"
        if number in (errno.EROFS, errno.EIO):
            return str(error.strerror) if isinstance(error, OSError) else ""
        error = error.__cause__ or error.__context__
    return ""


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{math.ceil(count / 1e6)} MB"
