"""The line between the coordinator and one worker elsewhere: what both ends of it have to know."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sweeper.config import Config, TrackingConfig
from sweeper.errors import SweepFailed
from sweeper.messages import Decision, Done, Outcome, Progress, TrialSpec, Wait

if TYPE_CHECKING:
    from sweeper.coordinator import Coordinator

OF_THE_COORDINATOR = ("SWEEPER_STUDY", "MLFLOW_", "PG")
"""Beginnings of the names of environment variables by which databases are reached: workers don't see them."""

DEVICE_LOST = 70
"""Exit code of a worker's process that can't use its device any more; another process may."""

LOOK_SECONDS = 0.5
"""Between two looks at how the workers are; calls are answered as they come."""

STARTS = 3
"""Workers that may be lost at one place, one after another, before they have taken a trial."""

_LOADING = 6
"""Times the silence that counts as hanging: imports, a model on a slow disk."""


def broke_off(error: BaseException) -> SweepFailed:
    """What an error that nobody has foreseen means for the sweep."""
    told = f"a worker broke off with {type(error).__name__}: {error}"
    return SweepFailed(f"{told}. What was trained is kept; when that is mended, the same command goes on")


def for_workers(config: Config) -> Config:
    """What workers get of a configuration: nothing that leads to databases."""
    return replace(config, sweep=replace(config.sweep, study=None), tracking=TrackingConfig("none"))


class Caller(ABC):
    """The worker's end: a channel whose calls go to wherever the coordinator is."""

    @abstractmethod
    def ask(self, verb: str, *said: Any) -> Any:
        """Have the coordinator's method `verb` called with what is `said`; gives its answer."""

    def next_trial(self) -> TrialSpec | Wait | Done:
        """As a channel's."""
        work: TrialSpec | Wait | Done = self.ask("next_trial")
        return work

    def report(self, progress: Progress) -> Decision:
        """As a channel's."""
        decision: Decision = self.ask("report", progress)
        return decision

    def finish(self, outcome: Outcome) -> None:
        """As a channel's."""
        self.ask("finish", outcome)


class Line:
    """The coordinator's end of a worker's channel.

    It knows which trials the worker holds and when it was last heard, so that an executor can see that a
    worker hangs, and give its trials back when it is gone. `clock` gives seconds and only ever goes forward.
    """

    def __init__(self, coordinator: "Coordinator", clock: Callable[[], float] = time.monotonic) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._heard = clock()
        self.trials: set[int] = set()
        """Numbers of those that the worker holds; several with the engine `packed`."""
        self.has_loaded = False
        """True once the worker has asked for a trial: model and rows are there."""
        self.has_trained = False
        """True once it was given one."""
        self.is_done = False
        """True once it was told that no trial will come any more."""

    @property
    def silence(self) -> float:
        """Seconds since the worker was last heard, or since it was started."""
        return self._clock() - self._heard

    def hangs(self, seconds: float) -> str:
        """In words, if the worker has been silent for more than the `seconds` that it may be; else empty."""
        bearable = seconds if self.has_loaded else _LOADING * seconds
        return f"said nothing for {bearable:g} s" if self.silence > bearable else ""

    def next_trial(self) -> TrialSpec | Wait | Done:
        """As a channel's."""
        self.has_loaded = True
        work = self._coordinator.next_trial()
        if isinstance(work, TrialSpec):
            self.trials.add(work.trial)
            self.has_trained = True
        self.is_done = isinstance(work, Done)
        self._heard = self._clock()
        return work

    def report(self, progress: Progress) -> Decision:
        """As a channel's."""
        decision = self._coordinator.report(progress)
        self._heard = self._clock()
        return decision

    def finish(self, outcome: Outcome) -> None:
        """As a channel's."""
        self._coordinator.finish(outcome)
        self.trials.discard(outcome.trial)
        self._heard = self._clock()

    def cut(self, how: str) -> None:
        """The worker is gone, and `how` says in which way: its trials wait for another one."""
        self._coordinator.lost(sorted(self.trials), how)
        self.trials.clear()
