"""What a person sees in the terminal on the way: bars, or plain lines."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from sweeper.data.findings import printable
from sweeper.events import Listener, Measurement, SweepInfo, TrialRecord
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.observations import Losses, Observation, of_trial
from sweeper.study.objectives import best_of, violations
from sweeper.terminal.tables import (
    can_prune,
    describe,
    goals_in_words,
    harmless,
    minutes,
    number,
    trials_in_words,
)

_PLAIN_WIDTH = 120
"""Columns of a table that goes into a file or a pipe."""


def make_screen(console: Console | None = None) -> "Screen":
    """Bars where there is a terminal, plain lines where there is none."""
    console = console or _Steady(highlight=False)
    if console.is_terminal:
        return LiveScreen(console)
    console.width = _PLAIN_WIDTH
    return Screen(console)


class _Steady(Console):
    """A console that is silent once nobody reads it; rich's own ends the process, and a sweep with it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Screen(Listener):
    """Prints one line per event; the result is for the command to print, once all listeners are through."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds and only ever goes forward."""
        self.console = console
        self._clock = clock
        self._sweep: SweepInfo | None = None
        self._records: dict[int, TrialRecord] = {}
        self._since: dict[int, float] = {}
        """When each running trial began, by `clock`."""
        self._noted: set[str] = set()
        """Kinds of observations on single trials that were told."""

    def say(self, text: str) -> None:
        """One line of plain text; long lines are left to the terminal to wrap."""
        self.console.print(Text(printable(text)), soft_wrap=True)

    def note(self, observations: Sequence[Observation]) -> None:
        """What a sweep sees in itself, and what helps; a command in a line of its own, to be copied."""
        for one in observations:
            self.say(f"Note: {one.text}")
            if one.command:
                self.say(f"  {one.command}")

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Something that takes a while before the first trial, e.g. reading the data."""
        self.say(f"{what} ...")
        yield

    def opened(self, sweep: SweepInfo, trials: Sequence[TrialRecord]) -> None:
        """Say what is going to happen."""
        self._sweep = sweep
        self._records = {record.number: record for record in trials}
        over = sum(record.state.is_over and record.number != BASE for record in trials)
        if sweep.is_verdict:
            self.say(
                f"The verdict: the best settings and the default ones, trained anew: {sweep.budget} runs"
            )
            if over:
                self.say(f"Going on: {over} of {sweep.budget} runs are done")
            return
        rows = ", ".join(f"{data.rows} {data.split}" for data in sweep.data)
        self.say(
            f"Sweep {sweep.name}: {sweep.model}; rows: {rows or 'none'}; {trials_in_words(sweep.budget)}"
        )
        for line in goals_in_words(sweep):
            self.say(line)
        if sweep.trained_by:
            self.say(f"Trained by {sweep.trained_by}")
        if over:
            self.say(f"Going on: {over} of {sweep.budget} trials are done")
        if BASE in self._records:
            self._say_how_long(self._records[BASE])

    def started(self, trial: TrialRecord) -> None:
        """Say which trial begins or goes on."""
        self._records[trial.number] = trial
        self._since[trial.number] = self._clock()
        if trial.number == BASE:
            self.say("Measuring the untouched base model")
        else:
            again = f" (attempt {trial.attempt})" if trial.attempt > 1 else ""
            self.say(f"{self._name(trial)}{again}: {describe(trial)}")

    def measured(self, point: Measurement) -> None:
        """Say the objective at a mark, and what was tried to choose an engine."""
        if "packed_slots" in point.metrics:
            self.say(f"  {_engine_in_words(point.metrics)}")
        if point.mark is not None and point.trial != BASE and self._sweep is not None:
            name = self._sweep.objective.metric
            value = number(point.metrics["objective"], point.metrics.get("objective_error"))
            running = [r for r in self._records.values() if r.state is TrialState.RUNNING]
            among_others = len(running) > 1 or self._sweep.workers > 1
            whose = f"{self._name(self._records[point.trial]).lower()} " if among_others else ""
            self.say(f"  {whose}after {point.mark} examples: {name} {value}")

    def ended(self, trial: TrialRecord) -> None:
        """Say how it ended."""
        self._records[trial.number] = trial
        self._since.pop(trial.number, None)
        if self._sweep is None:
            return
        self.say(self._end_in_words(trial, self._sweep))
        for warning in trial.warnings:
            self.say(f"  Warning: {warning}")
        for violation in violations(trial, self._sweep.goals):
            self.say(f"  {violation}")
        self._note_trial(trial, self._sweep)
        if trial.number == BASE and trial.objective is not None:
            self._say_how_long(trial)

    def _note_trial(self, trial: TrialRecord, sweep: SweepInfo) -> None:
        """What is seen in a trial, once for each kind: how many trials it holds of is told at the end."""
        if trial.number == BASE or sweep.is_verdict or not trial.state.is_over:
            return
        layout = Layout(sweep.folder.parent, sweep.folder.name)
        for one in of_trial(trial, Losses.of(measurements(layout.metrics(trial.number)))):
            if one.kind not in self._noted:
                self._noted.add(one.kind)
                self.say(f"  Note: {one.text}")

    def _end_in_words(self, trial: TrialRecord, sweep: SweepInfo) -> str:
        name = "Base model" if trial.number == BASE else self._name(trial)
        if trial.state is TrialState.WAITING and trial.reason:
            return f"{name} is to go on with another worker: {trial.reason}"
        seconds = f"{trial.seconds:.0f} s" if trial.seconds else ""
        if sweep.is_verdict:
            found = f"{number(trial.test.objective, trial.test.error)} on test rows" if trial.test else ""
        else:
            found = number(trial.objective, trial.error) if trial.objective is not None else ""
        told = name if trial.number == BASE and found else f"{name} {trial.state.value}"
        if found:
            told += f": {sweep.objective.metric} {found}" + (f", {seconds}" if seconds else "")
        elif seconds:
            told += f" after {seconds}"
        return told + (f" ({trial.reason})" if trial.reason else "")

    def _name(self, trial: TrialRecord) -> str:
        return f"{'Run' if trial.repeat else 'Trial'} {trial.number}"

    def _say_how_long(self, base: TrialRecord) -> None:
        left = self.seconds_left(base)
        if left and self._sweep is not None:
            runs = self._sweep.verdict_runs
            less = ", less where trials are pruned" if can_prune(self._sweep) else ""
            included = f"; the verdict's {runs} runs are included" if runs else ""
            self.say(f"About {minutes(left)} to go{less}{included}")

    def seconds_left(self, base: TrialRecord | None) -> float | None:
        """Expected time until budget and verdict are through, None as long as nothing was measured.

        Evaluation is counted, and of the running trials what is left.
        """
        if self._sweep is None:
            return None
        over = [r for r in self._records.values() if r.state.is_over and r.number != BASE]
        count = self._sweep.budget - len(over)
        timed = [record.seconds for record in over if record.seconds]
        evaluation = base.cost.get("evaluation_seconds", 0.0) if base is not None else 0.0
        verdict_runs, testing = self._sweep.verdict_runs, evaluation * self._sweep.test_share
        if timed:
            # The verdict's runs are not pruned.
            whole = [r.seconds for r in over if r.seconds and r.state is TrialState.FINISHED] or timed
            left = count * mean(timed) - self._spent(mean(timed))
            return (left + verdict_runs * (mean(whole) + testing)) / self._sweep.workers
        if base is None or not base.cost.get("train_examples_per_second"):
            return None
        training = self._sweep.examples / base.cost["train_examples_per_second"]
        each = training + self._sweep.marks * evaluation
        left = count * each - self._spent(each)
        return (left + verdict_runs * (each + testing)) / self._sweep.workers

    def _spent(self, expected: float) -> float:
        """Seconds that the running trials have taken of those that are expected of each."""
        now = self._clock()
        running = [since for number, since in self._since.items() if number != BASE]
        return sum(min(now - since, expected) for since in running)


def _engine_in_words(speeds: Mapping[str, float]) -> str:
    packed, alone = speeds["packed_examples_per_second"], speeds["trainer_examples_per_second"]
    taken = "packed" if packed > alone else "trainer"
    return (
        f"engine=auto takes {taken}: {packed:.3g} examples per second with "
        f"{speeds['packed_slots']:.0f} trials at once, {alone:.3g} with one"
    )


class LiveScreen(Screen):
    """A bar for the sweep and one for each running trial, with finished trials as lines above."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._all: TaskID | None = None
        self._bars: dict[int, TaskID] = {}

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A spinner while it lasts, a line once it is done."""
        with self.console.status(harmless(what)):
            yield
        self.console.print(f"[green]✓[/green] {harmless(what)}", soft_wrap=True)

    def opened(self, sweep: SweepInfo, trials: Sequence[TrialRecord]) -> None:
        """Show the sweep's bar."""
        super().opened(sweep, trials)
        self._all = self._progress.add_task(harmless(sweep.name), total=sweep.budget, note="")
        self._progress.start()
        self._show_sweep()

    def started(self, trial: TrialRecord) -> None:
        """Show a bar for the trial."""
        super().started(trial)
        name = "base model" if trial.number == BASE else self._name(trial).lower()
        self._bars[trial.number] = self._progress.add_task(name, total=trial.examples or 1, note="")

    def measured(self, point: Measurement) -> None:
        """Move the trial's bar."""
        super().measured(point)
        bar = self._bars.get(point.trial)
        if bar is not None:
            self._progress.update(bar, completed=point.examples)
            loss = point.metrics.get("train_loss")
            self._progress.update(bar, note="" if loss is None else f"loss {loss:.3f}")
        self._show_sweep()

    def scoring(self, trial: int, done: int, of: int) -> None:
        """Show how far the evaluation is."""
        super().scoring(trial, done, of)
        bar = self._bars.get(trial)
        if bar is not None:
            self._progress.update(bar, note=f"scoring {done:,}/{of:,}")
        self._show_sweep()

    def ended(self, trial: TrialRecord) -> None:
        """Take the trial's bar away."""
        bar = self._bars.pop(trial.number, None)
        if bar is not None:
            self._progress.remove_task(bar)
        super().ended(trial)
        self._show_sweep()

    def closed(self, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str) -> None:
        """Give the terminal back."""
        self._progress.stop()
        if self._all is not None:
            self._progress.remove_task(self._all)
            self._all = None

    def _show_sweep(self) -> None:
        if self._all is None or self._sweep is None:
            return
        trials = [r for r in self._records.values() if r.number != BASE]
        best = best_of(trials, self._sweep.goals)
        left = self.seconds_left(self._records.get(BASE))
        note = f"best {number(best.objective, best.error)}" if best and not self._sweep.is_verdict else ""
        if left is not None:
            note += f"  about {minutes(left)} left"
        over = sum(record.state.is_over for record in trials)
        self._progress.update(self._all, completed=over, note=note.strip())
