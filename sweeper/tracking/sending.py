"""MLflow as a listener: everything that was measured, for comparing trials in its UI.

The sweep never waits for MLflow. The listener's methods only note what happened; a thread imports
MLflow, sets up its database and sends, in batches. What can't be sent is kept and tried again, and what
is lost with a killed process is read back from metrics.jsonl at the next start.
"""

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import unquote, urlsplit

from sweeper.config import TrackingConfig
from sweeper.credentials import masked, opened, without_secrets
from sweeper.errors import StudyError
from sweeper.events import Measurement, SweepInfo, TrialRecord
from sweeper.failpoints import reach
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.storage.database import sqlite_path
from sweeper.tracking.runs import SweepRuns
from sweeper.tracking.sent import Sent
from sweeper.tracking.store import attach_page, delete_runs, quiet_mlflow
from sweeper.tracking.tracker import Tracker

_SEND_SECONDS = 2.0
"""Measurements are gathered for this long, then sent together."""
_REST = 3.0
"""The thread rests this many times as long as it sends: with hundreds of workers the batches grow instead."""
_MOST_SECONDS = 60.0
"""Longest pause between two tries to reach a tracking server that is away."""
_TRIES = 3
"""A server that was away so often in a row is asked once more when the sweep ends, and not waited for."""
_JOIN_SECONDS = 180.0
"""closed() waits this long at most for a server that answers, but slowly."""

_log = logging.getLogger(__name__)


@dataclass
class _Trial:
    """What is still to be sent of one trial."""

    record: TrialRecord
    time: float = field(default_factory=time.time)
    """When `record` was heard of."""
    on_disk: bool = False
    """Send all of metrics.jsonl first: an earlier process may have lost what it had not sent."""
    points: list[Measurement] = field(default_factory=list)
    last: Measurement | None = None
    changed: bool = True


@dataclass(frozen=True)
class _Closed:
    trials: Sequence[TrialRecord]
    best: TrialRecord | None
    reason: str
    deadline: float
    """By time.monotonic(): a server that is still away then is given up."""


def make_tracker(config: TrackingConfig, layout: Layout) -> Tracker:
    """The tracker that `config` asks for."""
    return Tracker() if config.name == "none" else MlflowTracker(config, layout)


class MlflowTracker(Tracker):
    """Sends a sweep to MLflow from a thread of its own. Its methods return at once, except closed()."""

    def __init__(self, config: TrackingConfig, layout: Layout, patience: float = 15.0) -> None:
        """`patience`: seconds that closed() goes on trying to reach a server that is away."""
        self._uri = opened(config.uri or layout.tracking_url, "tracking.uri")
        self._experiment = config.experiment or layout.sweep.name
        self._layout = layout
        self._patience = patience
        self._inbox: SimpleQueue[TrialRecord | Measurement | _Closed] = SimpleQueue()
        self._trials: dict[int, _Trial] = {}
        self._closed: _Closed | None = None
        self._thread: Thread | None = None
        self._sent = Sent.read(layout, self._uri)
        if not self._database_exists():
            self._sent = Sent(self._sent.identity, self._sent.uri)
        quiet_mlflow()

    def opened(self, sweep: SweepInfo, trials: Sequence[TrialRecord]) -> None:
        """Start the thread; it first sends what `trials` have and MLflow may not have."""
        # On disk before MLflow hears of it: the runs must be found again whatever happens.
        self._sent.closed = False
        self._sent.write(self._layout)
        reach("tracking.identified")
        self._catch_up(trials)
        known = {trial.number for trial in trials}.union(range(self._sent.begun))
        runs = SweepRuns(self._uri, self._experiment, self._layout, sweep, self._sent.identity, known)
        self._thread = Thread(target=self._run, args=(runs,), name="mlflow", daemon=True)
        self._thread.start()

    def started(self, trial: TrialRecord) -> None:
        """Note it."""
        self._inbox.put(trial)

    def measured(self, point: Measurement) -> None:
        """Note it."""
        self._inbox.put(point)

    def ended(self, trial: TrialRecord) -> None:
        """Note it."""
        self._inbox.put(trial)

    def closed(self, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str) -> None:
        """Send what is left, wait for it within bounds, and say what could not be sent."""
        if self._thread is None:
            return
        self._inbox.put(_Closed(tuple(trials), best, reason, time.monotonic() + self._patience))
        self._thread.join(_JOIN_SECONDS)
        if not self._sent.closed:
            _log.warning(
                "%d measurements were not sent to MLflow at %s; the next run of the same command sends them.",
                sum(self._unsent(trial) for trial in list(self._trials.values())),
                masked(self._uri),
            )

    def has_all(self, trials: Sequence[TrialRecord]) -> bool:
        """Whether MLflow at this URI has these trials and the sweep's end; MLflow itself is not asked."""
        return self._database_exists() and self._sent.closed and all(map(self._sent.has, trials))

    def attach(self, page: Path) -> None:
        """Put a page on the parent run; left out, with a word, if MLflow can't be reached."""
        if not Sent.path(self._layout).exists() or not self._database_exists():
            return
        if "***" in self._uri:
            _log.warning("%s is not in MLflow at %s: the secret in that URI is not stored", page, self._uri)
            return
        try:
            attach_page(self._uri, self._experiment, self._sent.identity, page)
        except Exception as error:  # the page itself is written
            _log.warning("%s is not in MLflow at %s (%s)", page, masked(self._uri), self._cause(error))

    def forget(self, name: str) -> None:
        """Delete the sweep's runs in MLflow; they are left, with a word, if it can't be reached."""
        if not Sent.path(self._layout).exists() or not self._database_exists():
            return
        try:
            delete_runs(self._uri, self._experiment, self._sent.identity)
        except Exception as error:  # the sweep's folder can be deleted nevertheless
            _log.warning(
                "The runs of %s are still in MLflow at %s (%s)", name, masked(self._uri), self._cause(error)
            )

    def send_again(
        self, sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str
    ) -> None:
        """Send everything, to the runs that there are: what MLflow has already is not doubled."""
        self._sent = Sent(self._sent.identity, self._sent.uri)
        self._sent.write(self._layout)
        self._trials.clear()
        self._closed = _Closed(tuple(trials), best, reason, time.monotonic())
        self._catch_up(trials)
        known = {trial.number for trial in trials}
        runs = SweepRuns(self._uri, self._experiment, self._layout, sweep, self._sent.identity, known)
        try:
            runs.connect()
            self._send(runs)
        except Exception as error:  # whatever MLflow raises
            raise StudyError(
                f"MLflow at {masked(self._uri)} can't be used ({self._cause(error)}). Nothing is lost: have "
                "it running, then repair again"
            ) from error

    def _database_exists(self) -> bool:
        """False if MLflow's SQLite file is gone; other stores can't be looked at so cheaply."""
        database = sqlite_path(self._uri, "tracking.uri") if self._uri.startswith("sqlite:") else None
        return database is None or database.exists()

    # On the thread

    def _run(self, runs: SweepRuns) -> None:
        pause = 0.0
        failures = 0
        while not self._sent.closed:
            self._gather(pause)
            try:
                if runs.connect():
                    # MLflow stays: looked through in a full collection, it would hold up the sweep.
                    gc.freeze()
                began = time.monotonic()
                self._send(runs)
                pause, failures = max(_SEND_SECONDS, _REST * (time.monotonic() - began)), 0
            except Exception as error:  # whatever MLflow raises, it must not stop a sweep
                runs.forget()
                failures += 1
                pause = min(_SEND_SECONDS * 2 ** (failures - 1), _MOST_SECONDS)
                if failures == 1:
                    _log.warning(
                        "MLflow at %s can't be used (%s). The sweep goes on; what it measures is sent later.",
                        masked(self._uri),
                        self._cause(error),
                    )
                if self._closed is not None:
                    if failures > _TRIES or time.monotonic() >= self._closed.deadline:
                        return
                    pause = 0.0
                    time.sleep(min(1.0, self._patience))

    def _gather(self, seconds: float) -> None:
        """Take in what happens during the next `seconds`; less if the sweep ends."""
        deadline = time.monotonic() + seconds
        while self._closed is None:
            try:
                self._take(self._inbox.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                return

    def _take(self, message: TrialRecord | Measurement | _Closed) -> None:
        if isinstance(message, _Closed):
            self._closed = message
            self._catch_up(message.trials)
        elif isinstance(message, TrialRecord):
            trial = self._trials.setdefault(message.number, _Trial(message))
            trial.record, trial.time, trial.changed = message, time.time(), True
        elif message.trial in self._trials:
            self._trials[message.trial].points.append(message)

    def _catch_up(self, records: Sequence[TrialRecord]) -> None:
        """Note what MLflow may not have; a trial that waits for its very first attempt needs no run yet."""
        for record in records:
            known = self._trials.get(record.number)
            has_begun = record.state.is_over or self._layout.metrics(record.number).exists()
            if known is None and has_begun and not self._sent.has(record):
                self._trials[record.number] = _Trial(record, on_disk=True)
            elif known is not None and known.record != record and not self._sent.has(record):
                self._take(record)

    def _send(self, runs: SweepRuns) -> None:
        begun = 1 + max(self._trials, default=-1)
        if begun > self._sent.begun:
            self._sent.begun = begun
            self._sent.write(self._layout)
        known = dict(self._sent.trials)
        try:
            self._send_trials(runs)
        finally:
            # Once for all of them: the file grows with the sweep.
            if self._sent.trials != known:
                self._sent.write(self._layout)
                reach("tracking.noted")
        if self._closed is not None and self._inbox.empty():
            runs.close(self._closed.trials, self._closed.best, self._closed.reason)
            self._sent.closed = True
            self._sent.write(self._layout)
            reach("tracking.closed")

    def _send_trials(self, runs: SweepRuns) -> None:
        for number, trial in list(self._trials.items()):
            if trial.changed or trial.points:
                try:
                    self._send_trial(runs, trial)
                except Exception as error:
                    if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                        raise
                    # Refused for good, e.g. because its run was deleted in the UI; the others go on.
                    trial.changed, trial.on_disk, trial.points = False, False, []
                    _log.warning("MLflow does not accept trial %d: %s", number, self._cause(error))
                if self._sent.has(trial.record):  # a long sweep keeps nothing of it here
                    del self._trials[number]

    def _send_trial(self, runs: SweepRuns, trial: _Trial) -> None:
        record = trial.record
        stored = list(measurements(self._layout.metrics(record.number))) if trial.on_disk else []
        points = [*stored, *trial.points]
        if points:
            trial.last = max([*points, *filter(None, [trial.last])], key=lambda p: (p.time, p.examples))
        runs.begin(record, points[0].time if points else trial.time)
        if record.state.is_over:
            ended = trial.last.time if trial.on_disk and trial.last else trial.time
            runs.end(record, points, trial.last, ended)
            self._sent.trials[str(record.number)] = record.state.value
        else:
            runs.log(record.number, points)
        trial.points, trial.on_disk, trial.changed = [], False, False

    def _unsent(self, trial: _Trial) -> int:
        stored = (
            sum(1 for _ in measurements(self._layout.metrics(trial.record.number))) if trial.on_disk else 0
        )
        return max(stored, len(trial.points))

    def _cause(self, error: Exception) -> str:
        """The innermost cause in one line, without the secrets that a URI may hold."""
        cause: BaseException = error
        while (inner := cause.__cause__ or cause.__context__) is not None:
            cause = inner
        text = without_secrets(str(cause).splitlines()[0] if str(cause) else type(cause).__name__)
        parts = urlsplit(self._uri)
        for secret in filter(None, (parts.password, parts.username if not parts.password else None)):
            for form in (secret, unquote(secret)):
                text = text.replace(form, "***")
        return text
