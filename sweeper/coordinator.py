"""The coordinator: hands out trials, hears their reports, prunes, and keeps the books of a sweep.

It is a `Channel`; an executor only carries its three verbs to where the workers run. It is the only
writer of the study and the only source of events for listeners, and it never trains anything.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sweeper.config import Config, EvaluationConfig, TrialSettings
from sweeper.engines import checkpoints
from sweeper.events import Listener, Measurement, SweepInfo, TrialRecord
from sweeper.failpoints import reach
from sweeper.inbox import Inbox, Prune, Stop
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.messages import (
    BASE,
    Decision,
    Done,
    Ending,
    Evaluation,
    Outcome,
    Progress,
    TrialSpec,
    TrialState,
    Wait,
)
from sweeper.study.study import Spent, Study

_POLL_SECONDS, _LONGEST_POLL = 0.2, 5.0
_SAVE_SECONDS = 1.0
"""Between two notes of how long the sweep has run, as long as no trial ends."""


def marks_of(settings: TrialSettings, rows: int, evaluation: EvaluationConfig) -> tuple[int, ...]:
    """The marks of a trial: multiples of 1/n of one pass over the `rows` training rows.

    They don't depend on the batch size, so that trials are compared after equally many examples.
    The last one is the trial's whole length.
    """
    n = evaluation.marks_per_epoch
    marks = {math.ceil(i * rows / n) for i in range(1, n * settings.epochs + 1)}
    return tuple(sorted(marks))


@dataclass
class _Running:
    """A trial in some worker's hands."""

    spec: TrialSpec
    since: float
    reached: set[int] = field(default_factory=set)
    """Marks whose objective is in the study."""
    told: set[int] = field(default_factory=set)
    """Marks that listeners have heard of; a kill may fall between telling and storing."""
    examples: int = 0
    started_at: int | None = None
    """Examples seen when this attempt began, as far as its first report tells."""


class Coordinator:
    """The state machine of one sweep.

    `rows` is the number of unaugmented training rows. `clock` gives seconds and only ever goes forward; `now`
    gives Unix time for measurements, which may be set back: theirs stands still then.
    """

    def __init__(
        self,
        study: Study,
        layout: Layout,
        sweep: SweepInfo,
        config: Config,
        rows: int,
        listeners: Sequence[Listener],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._study = study
        self._layout = layout
        self._sweep = sweep
        self._budget = config.budget
        self._sampler = config.sampler
        self._evaluation = config.task.evaluation
        self._rows = rows
        self._listeners = tuple(listeners)
        self._retries = config.executor.retries or 0
        self._losses: Counter[int] = Counter()
        self._clock = clock
        self._now = now
        self._inbox = Inbox(layout)
        self._stops: Mapping[int, Stop | Prune] = {}
        self._running: dict[int, _Running] = {}
        self._base_is_known = False
        self._failures: list[TrialRecord] = []
        self._stop = ""
        self._moment = 0.0
        self._began = clock()
        self._before = 0.0
        self._saved = -math.inf
        self._device_seconds_spent = 0.0

    # The life of the sweep

    def open(self) -> None:
        """Begin, or go on; every listener hears what is already there."""
        for lost in self._study.unaccounted():
            self._study.spend(lost.number, self._cost_of_lost(lost))
            reach("study.accounted")
        records = self._study.records()
        self._base_is_known = any(record.number == BASE for record in records)
        self._began = self._clock()
        self._before = self._study.running_seconds
        self._device_seconds_spent = sum(record.seconds for record in records)
        for listener in self._listeners:
            listener.opened(self._sweep, records)

    def close(self, reason: str = "") -> None:
        """End, or leave for now; every listener hears the result."""
        try:
            self._save_time()
        finally:  # a screen has to be left in order, whatever the database says
            records, best = self._study.records(), self._study.best()
            for listener in self._listeners:
                listener.closed(records, best, reason or self._stop or "finished")

    def stop(self, reason: str) -> None:
        """Hand out nothing more and suspend what runs; safe to call from a signal handler."""
        self._stop = self._stop or reason

    @property
    def stopped(self) -> str:
        """Why the sweep stops before its budget of trials is used; empty if it doesn't."""
        return self._stop

    @property
    def failures(self) -> Sequence[TrialRecord]:
        """Trials that failed one after another, up to now."""
        return tuple(self._failures)

    # What workers call

    def next_trial(self) -> TrialSpec | Wait | Done:
        """The next trial; Wait while only others' unfinished trials are left, Done at the end."""
        self._open_inbox()
        self._check_time()
        if self._stop:
            return Done(self._stop)
        if not self._base_is_known:
            if BASE in self._running:
                return self._wait()
            return self._hand_out(self._study.record(BASE), marks=(0,))
        if self._study.is_full(self._budget.trials):
            return self._wait_for_others()
        with self._study.step():
            record = self._study.propose(self._budget.trials, self._sampler)
            if record is None:
                return self._wait_for_others()
            marks = marks_of(record.settings, self._rows, self._evaluation)
            self._study.set_examples(record.number, marks[-1])
        reach("study.proposed")
        return self._hand_out(self._study.record(record.number), marks)

    def report(self, progress: Progress) -> Decision:
        """Store what a trial measured and decide whether it goes on."""
        running = self._current(progress.trial, progress.attempt)
        if running is None:
            return Decision.CANCEL
        self._note_progress(running, progress)
        if progress.scored is not None:
            for listener in self._listeners:
                listener.scoring(progress.trial, *progress.scored)
        with self._study.step():
            evaluation = self._measured(running, progress)
            is_poor = evaluation is not None and self._should_prune(running, evaluation.mark)
        reach("study.reported")
        self._open_inbox()
        if (order := self._stops.get(progress.trial)) is not None:
            return Decision.PRUNE if isinstance(order, Prune) else Decision.STOP
        if is_poor:
            return Decision.PRUNE
        self._check_time()
        return Decision.SUSPEND if self._stop else Decision.CONTINUE

    def finish(self, outcome: Outcome) -> None:
        """Store how an attempt ended; an older attempt's word counts for nothing."""
        running = self._current(outcome.trial, outcome.attempt)
        if running is None:
            return
        seconds = self._clock() - running.since
        order = self._stops.get(outcome.trial)
        if order is not None and outcome.ending is Ending.PRUNED:
            outcome = replace(outcome, reason=order.reason)
        elif order is not None and outcome.ending is Ending.FINISHED and outcome.reason:
            outcome = replace(outcome, reason=f"{order.reason}; {outcome.reason}")
        with self._study.step():
            record = self._study.finish(outcome, Spent(outcome.examples, seconds, outcome.attempt))
            self._save_time()
        reach("study.finished")
        del self._running[outcome.trial]
        if outcome.trial != BASE:
            self._device_seconds_spent += seconds
        if outcome.trial == BASE and outcome.ending in (Ending.FINISHED, Ending.FAILED):
            self._base_is_known = True
        if outcome.trial == BASE and outcome.ending is Ending.FAILED:
            record = replace(record, state=TrialState.FAILED, reason=outcome.reason)
        self._count_failure(record)
        for listener in self._listeners:
            listener.ended(record)

    def lost(self, worker_trials: Sequence[int], why: str = "its worker died") -> None:
        """A worker is gone with these trials: they wait for another one, as the same trials.

        One that has lost more workers than it may fails: it may be what kills them.
        """
        for number in worker_trials:
            running = self._running.get(number)
            if running is None:
                continue
            trained = running.examples - (running.started_at or 0)
            self._losses[number] += 1
            ending, told = Ending.SUSPENDED, why
            if self._losses[number] > self._retries and not self._stop:
                ending = Ending.FAILED
                told = (
                    f"{why}; that was worker {self._losses[number]} of this trial, and "
                    f"executor.retries={self._retries} allows no more"
                )
            self.finish(Outcome(number, running.spec.attempt, ending, trained, "", told))
            if ending is Ending.FAILED:
                checkpoints.clear(running.spec.folder)  # its engine is gone

    # How

    def _open_inbox(self) -> None:
        """Obey what other terminals have asked for."""
        orders = self._inbox.open(self._study, self._budget.trials)
        self._stops = orders.stops
        for record in orders.ended:
            checkpoints.clear(self._layout.trial(record.number), record.adapter)
            for listener in self._listeners:
                listener.ended(record)

    def _hand_out(self, record: TrialRecord, marks: tuple[int, ...]) -> TrialSpec:
        spec = TrialSpec(
            trial=record.number,
            attempt=record.attempt,
            seed=self._study.seed(record.number),
            settings=record.settings,
            marks=marks,
            examples=marks[-1],
            folder=self._layout.trial(record.number),
            held_out=self._sweep.is_verdict,
        )
        points = list(measurements(self._layout.metrics(spec.trial)))
        self._moment = max([self._moment, *(point.time for point in points)])
        told = {point.mark for point in points if point.mark is not None}
        self._running[spec.trial] = _Running(spec, self._clock(), set(record.reports), told)
        for listener in self._listeners:
            listener.started(record)
        return spec

    def _wait_for_others(self) -> Wait | Done:
        """Nothing is left to propose, but a running trial may come back."""
        return self._wait() if self._running else Done("the budget of trials is used")

    def _wait(self) -> Wait:
        """The longer, the more trials run: hundreds of idle workers would keep the coordinator busy."""
        return Wait(min(_POLL_SECONDS * len(self._running), _LONGEST_POLL))

    def _cost_of_lost(self, trial: TrialRecord) -> Spent:
        """What an attempt cost that died without a word, as far as its measurements tell."""
        path = self._layout.metrics(trial.number)
        points = [point for point in measurements(path) if point.attempt == trial.attempt]
        if not points:
            return Spent(attempt=trial.attempt)
        first, last = points[0], points[-1]
        return Spent(last.examples - first.examples, max(0.0, last.time - first.time), trial.attempt)

    def _current(self, trial: int, attempt: int) -> _Running | None:
        running = self._running.get(trial)
        return running if running is not None and running.spec.attempt == attempt else None

    def _note_progress(self, running: _Running, progress: Progress) -> None:
        if running.started_at is None:
            running.started_at = progress.examples
        running.examples = max(running.examples, progress.examples)

    def _measured(self, running: _Running, progress: Progress) -> Evaluation | None:
        """Tell the listeners; gives back the evaluation if there is one with a usable objective."""
        evaluation = progress.evaluation
        if evaluation is not None and evaluation.mark in running.reached:
            return evaluation
        point = self._point(progress)
        if point.metrics and point.mark not in running.told:
            for listener in self._listeners:
                listener.measured(point)
        if evaluation is None or not math.isfinite(evaluation.objective):
            return None
        running.reached.add(evaluation.mark)
        if progress.trial != BASE:
            meets = not self._study.goals.missed(evaluation.metrics)
            self._study.report(progress.trial, evaluation.mark, evaluation.objective, meets)
        if self._clock() - self._saved >= _SAVE_SECONDS:
            self._save_time()
        return evaluation

    def _point(self, progress: Progress) -> Measurement:
        metrics, evaluation = dict(progress.metrics), progress.evaluation
        self._moment = max(self._moment, self._now())
        if evaluation is not None:
            metrics |= {f"validation_{name}": value for name, value in evaluation.metrics.items()}
            metrics |= {"objective": evaluation.objective, "objective_error": evaluation.error}
        return Measurement(
            trial=progress.trial,
            attempt=progress.attempt,
            time=self._moment,
            examples=progress.examples if evaluation is None else evaluation.mark,
            metrics=metrics,
            mark=None if evaluation is None else evaluation.mark,
        )

    def _should_prune(self, running: _Running, mark: int) -> bool:
        trial = running.spec.trial
        if trial == BASE or mark != max(running.reached):
            return False
        return self._study.should_prune(trial)

    def _count_failure(self, record: TrialRecord) -> None:
        if record.state is TrialState.FAILED and record.number != BASE:
            self._failures.append(record)
        elif record.state.is_over:
            self._failures.clear()
        if len(self._failures) >= self._budget.failures_in_row:
            self.stop(f"{len(self._failures)} trials failed in a row")

    @property
    def _seconds(self) -> float:
        return self._before + self._clock() - self._began

    def _check_time(self) -> None:
        minutes, hours = self._budget.minutes, self._budget.device_hours
        if minutes is not None and self._seconds >= 60 * minutes:
            self.stop(f"the budget of {minutes:g} minutes is used")
        if hours is not None and self._device_seconds() >= 3600 * hours:
            self.stop(f"the budget of {hours:g} device hours is used")

    def _device_seconds(self) -> float:
        running = sum(self._clock() - running.since for running in self._running.values())
        return self._device_seconds_spent + running

    def _save_time(self) -> None:
        self._study.running_seconds = self._seconds
        self._saved = self._clock()


def in_common(failures: Sequence[TrialRecord]) -> str:
    """What failed trials share, in words: their reason, and the settings they have alike."""
    reasons = sorted({record.reason for record in failures})
    settings = []
    for name in failures[0].params:
        values = {record.params.get(name) for record in failures}
        numbers = [v for v in values if isinstance(v, (int, float))]
        if len(values) == 1:
            settings.append(f"{name}={failures[0].params[name]}")
        elif len(numbers) == len(values):
            settings.append(f"{name} from {min(numbers):g} to {max(numbers):g}")
    why = "all for the same reason" if len(reasons) == 1 else "for different reasons"
    told = f"They failed {why}: {'; '.join(reasons)}."
    return f"{told} Their settings: {', '.join(settings)}." if settings else told
