"""Named points between durable steps, at each of which a test has the process killed.

In an ordinary run they do nothing. The environment, read when a process starts, arms them:

    SWEEPER_FAILPOINT=study.finished      killed where this point is reached
    SWEEPER_FAILPOINT=study.finished:3    where it is reached for the third time
    SWEEPER_FAILPOINT=a,b:2,c         at whichever of these comes first
    SWEEPER_FAILPOINT=17              at the seventeenth point, whatever its name
    SWEEPER_FAILPOINT_LOG=FILE.log    append the names that are reached; FILE.killed tells who died where

Of all processes with the same log one alone is killed, so that those that take its place can be watched.
"""

import os
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

POINTS: Mapping[str, str] = {
    # What the process has just done.
    "file.written": "a file has its content under a temporary name",
    "file.placed": "it was renamed into place",
    "lock.held": "the sweep is this process's own",
    "lock.announced": "others can read who holds it",
    "lock.leaving": "what was to be done under the lock is done, and it is still held",
    "config.written": "config.yaml",
    "provenance.written": "started.json",
    "audit.written": "audit.json",
    "audit.shown": "audit.html",
    "queue.written": "queue.csv",
    "rows.frozen": "the rows are complete in a temporary folder",
    "rows.removed": "rows of other settings that lay in their place are out of the way",
    "rows.placed": "they are the sweep's",
    "study.created": "Optuna has the study, or had it",
    "study.described": "the study says what defines the sweep",
    "study.taken_back": "a trial that a dead process left waits again",
    "study.written": "the rows of a step are written, but not committed",
    "study.committed": "they are in the database",
    "study.accounted": "what an attempt cost that died without a word is added up",
    "study.proposed": "a trial runs, with all its settings and its length",
    "study.reported": "the objective at a mark is stored",
    "study.finished": "how an attempt ended is stored, and what it cost",
    "verdict.enqueued": "a run of the verdict waits",
    "verdict.withdrawn": "a run that nobody wants is over",
    "inbox.put": "a letter lies in the inbox",
    "inbox.enqueued": "the trial that a letter asks for waits",
    "inbox.obeyed": "what a letter asks for is done",
    "inbox.emptied": "the letter is gone",
    "inbox.refused": "a letter that can't be obeyed is put aside",
    "journal.appended": "a measurement is in metrics.jsonl",
    "checkpoint.written": "a checkpoint's files are there, unsealed",
    "checkpoint.sealed": "it is complete under a temporary name",
    "checkpoint.placed": "it is the trial's newest",
    "checkpoint.updated": "it knows of an evaluation",
    "checkpoint.kept": "those that are neither best nor newest are gone",
    "checkpoint.copied": "the best adapter is copied, under a temporary name",
    "checkpoint.published": "it is in its place",
    "checkpoint.cleared": "all checkpoints of a trial that is over are gone",
    "best.copied": "the sweep's best adapter is copied, under a temporary name",
    "best.removed": "the one before is gone",
    "best.placed": "it is in its place",
    "report.written": "report.html",
    "card.written": "the model card",
    "tracking.identified": "the sweep knows what its runs are found again by",
    "tracking.founded": "MLflow's database is complete under a temporary name",
    "tracking.settled": "it is in its place",
    "tracking.experiment": "MLflow has the experiment",
    "tracking.parent": "MLflow has the sweep's own run",
    "tracking.described": "that run says what the sweep is",
    "tracking.created": "MLflow has a trial's run, empty",
    "tracking.begun": "that run says which rows it was trained on",
    "tracking.logged": "measurements were sent",
    "tracking.scored": "a trial's final numbers were sent",
    "tracking.ended": "a trial's run has its final state",
    "tracking.noted": "it is known here that MLflow has the trial",
    "tracking.summed_up": "the sweep's run has its result",
    "tracking.terminated": "the sweep's run has its final state",
    "tracking.closed": "it is known here that MLflow has everything",
    "tracking.attached": "the report lies on the sweep's run",
    "export.written": "an export is complete under a temporary name",
    "export.removed": "the one before is gone",
    "export.placed": "it is in its place",
    "export.logged": "MLflow has a new version of the model",
    "export.registered": "that version is the champion",
    "delete.forgotten": "a sweep's runs in MLflow are deleted",
    "delete.erased": "its studies are deleted",
    "delete.moved": "its folder is out of the way",
}


def reach(name: str) -> None:
    """Say that the step called `name` has just been done."""
    if _armed is not None:
        _armed.reach(name)


def arm() -> None:
    """Do as the environment says, from now on; raises ValueError for a point that isn't there."""
    global _armed
    where, log = os.environ.get("SWEEPER_FAILPOINT", ""), os.environ.get("SWEEPER_FAILPOINT_LOG")
    _armed = _Armed(where, Path(log) if log else None) if where or log else None


class _Armed:
    def __init__(self, where: str, log: Path | None) -> None:
        self._where = {
            point if ":" in point or point.isdecimal() else f"{point}:1"
            for point in where.split(",")
            if point
        }
        names = {point.partition(":")[0] for point in self._where if not point.isdecimal()}
        if unknown := names - POINTS.keys():
            raise ValueError(
                f"SWEEPER_FAILPOINT: there is no point {', '.join(sorted(unknown))}; they are named in "
                "sweeper/failpoints.py"
            )
        self._log = log
        self._reached: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        self._reached[name] += 1
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        here = {f"{name}:{self._reached[name]}", str(self._reached.total())}
        if not here.isdisjoint(self._where) and self._is_first(name):
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_first(self, name: str) -> bool:
        """Whether no process with the same log was killed before."""
        if self._log is None:
            return True
        try:
            with self._log.with_suffix(".killed").open("x", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {name}:{self._reached[name]}\n")
        except FileExistsError:
            return False
        return True


_armed: _Armed | None = None
arm()
