"""Who keeps what is measured, apart from the sweep's own folder: MLflow, or nobody."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sweeper.config import TrackingConfig
from sweeper.events import Listener, Measurement, SweepInfo, TrialRecord
from sweeper.layout import Layout
from sweeper.tracking.sending import MlflowTracker


class Tracker(Listener, Protocol):
    """A listener that keeps what it hears, elsewhere."""

    def has_all(self, trials: Sequence[TrialRecord]) -> bool:
        """Whether these trials and the sweep's end were sent completely. Asks a small file only."""

    def attach(self, page: Path) -> None:
        """Keep a page about the whole sweep, in the place of an earlier one; says so if it can't."""

    def forget(self, name: str) -> None:
        """Delete what was kept of the sweep `name`; says so if it can't."""

    def send_again(
        self, sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str
    ) -> None:
        """Send all that is known of a sweep, and wait for it. Raises StudyError if it can't be kept."""


def make_tracker(config: TrackingConfig, layout: Layout) -> Tracker:
    """The tracker that `config` asks for."""
    return NullTracker() if config.name == "none" else MlflowTracker(config, layout)


class NullTracker:
    """Listens and does nothing."""

    def opened(self, sweep: SweepInfo, trials: Sequence[TrialRecord]) -> None:
        """Nothing."""

    def started(self, trial: TrialRecord) -> None:
        """Nothing."""

    def measured(self, point: Measurement) -> None:
        """Nothing."""

    def ended(self, trial: TrialRecord) -> None:
        """Nothing."""

    def closed(self, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str) -> None:
        """Nothing."""

    def has_all(self, trials: Sequence[TrialRecord]) -> bool:
        """Nothing is missing."""
        return True

    def attach(self, page: Path) -> None:
        """Nothing."""

    def forget(self, name: str) -> None:
        """Nothing."""

    def send_again(
        self, sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str
    ) -> None:
        """Nothing."""
