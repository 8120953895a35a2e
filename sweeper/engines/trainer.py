"""The engine `trainer`: one trial after another through transformers.Trainer, in a warm process."""

import functools
import sys
import time
from typing import TYPE_CHECKING

from sweeper.config import Config
from sweeper.engines import checkpoints
from sweeper.engines.attempt import Attempt, Workbench
from sweeper.engines.batches import read_rows
from sweeper.engines.evaluate import Evaluator
from sweeper.engines.order import read_training_rows
from sweeper.messages import Channel, Done, Ending, Wait
from sweeper.modeling import BaseModel

if TYPE_CHECKING:
    from sweeper.data.prepare import Prepared


class TrainerEngine:
    """Trains the trials that a channel hands out, one at a time, over one loaded base model."""

    def __init__(self, config: Config, base: BaseModel, rows: "Prepared") -> None:
        evaluator = Evaluator(base, config.task, read_rows(rows.validation), rows.labels)

        @functools.cache
        def test() -> Evaluator:
            return Evaluator(base, config.task, read_rows(rows.open_test()), rows.labels, evaluator.slicing)

        self._bench = Workbench(
            config,
            base,
            read_training_rows(rows.train, rows.augmented),
            evaluator,
            test,
            config.engine.micro_batch or sys.maxsize,
            config.engine.report_seconds or 2.0,
        )

    def run(self, channel: Channel) -> None:
        """Train trials until the channel says Done."""
        while not isinstance(work := channel.next_trial(), Done):
            if isinstance(work, Wait):
                time.sleep(work.seconds)
                continue
            outcome = Attempt(self._bench, channel, work).outcome()
            channel.finish(outcome)
            if outcome.ending in (Ending.FINISHED, Ending.PRUNED, Ending.FAILED):
                checkpoints.clear(work.folder)
