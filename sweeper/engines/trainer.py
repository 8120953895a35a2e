"""The engine `trainer`: one trial after another through transformers.Trainer, in a warm process."""

import functools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sweeper.config import Config
from sweeper.engines import checkpoints
from sweeper.engines.attempt import Attempt, Workbench
from sweeper.engines.batches import read_rows
from sweeper.engines.evaluate import Evaluator
from sweeper.engines.order import read_training_rows
from sweeper.messages import Channel, Done, Ending, Engine, TrialSpec, Wait
from sweeper.models.modeling import BaseModel

if TYPE_CHECKING:
    from sweeper.data.prepare import Prepared


class TrainerEngine:
    """Trains the trials that a channel hands out, one at a time, over one loaded base model.

    A trial that began with one of `others` (by name) goes on with that.
    """

    def __init__(self, bench: Workbench, others: Mapping[str, Callable[[], Engine]]) -> None:
        self._bench = bench
        self._others = others

    def run(self, channel: Channel) -> None:
        """Train trials until the channel says Done."""
        while not isinstance(work := channel.next_trial(), Done):
            if isinstance(work, Wait):
                time.sleep(work.seconds)
            elif other := self._others.get(begun_with(work.folder)):
                other().run(Ahead(channel, work, then=Done))
            else:
                train_alone(self._bench, channel, work)


class Ahead:
    """A channel that hands out `spec`, and what `then` gives after it."""

    def __init__(
        self, channel: Channel, spec: TrialSpec, then: Callable[[], TrialSpec | Wait | Done]
    ) -> None:
        self._specs = [spec]
        self._then = then
        self.report, self.finish = channel.report, channel.finish

    def next_trial(self) -> TrialSpec | Wait | Done:
        return self._specs.pop() if self._specs else self._then()


def begun_with(trial_folder: Path) -> str:
    """The engine that a trial began with; "" if it has yet to begin."""
    found = checkpoints.newest(trial_folder)
    return found.state.engine if found else ""


def workbench(config: Config, base: BaseModel, rows: "Prepared") -> Workbench:
    """What an engine that trains works with."""
    outputs, labels = base.head.order, base.head.arranged(rows.labels)
    evaluator = Evaluator(base, config.task, read_rows(rows.validation, outputs), labels)

    @functools.cache
    def test() -> Evaluator:
        test_rows = read_rows(rows.open_test(), outputs)
        return Evaluator(base, config.task, test_rows, labels, evaluator.slicing)

    return Workbench(
        config,
        base,
        read_training_rows(rows.train, rows.augmented, outputs),
        evaluator,
        test,
        config.engine.micro_batch or sys.maxsize,
        cast(float, config.engine.report_seconds),
    )


def train_alone(bench: Workbench, channel: Channel, spec: TrialSpec, *warnings: str) -> None:
    """Train one trial from its start or its checkpoint to its end, and say how it ended."""
    finish(channel, Attempt(bench, channel, spec), *warnings)


def finish(channel: Channel, attempt: Attempt, *warnings: str) -> None:
    """Say how an attempt ended; of a trial that is over, what was published stays."""
    outcome = attempt.outcome()
    channel.finish(replace(outcome, warnings=(*warnings, *outcome.warnings)))
    if outcome.ending in (Ending.FINISHED, Ending.PRUNED, Ending.FAILED):
        checkpoints.clear(attempt.folder, outcome.adapter)
