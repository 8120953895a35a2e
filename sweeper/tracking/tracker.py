"""Who keeps what is measured, apart from the sweep's own folder."""

from collections.abc import Sequence
from pathlib import Path

from sweeper.events import Listener, SweepInfo, TrialRecord


class Tracker(Listener):
    """A listener that keeps what it hears, elsewhere; this one keeps nothing."""

    def has_all(self, trials: Sequence[TrialRecord]) -> bool:
        """Whether these trials and the sweep's end were sent completely. Asks a small file only."""
        return True

    def attach(self, page: Path) -> None:
        """Keep a page about the whole sweep, in the place of an earlier one; says so if it can't."""

    def forget(self, name: str) -> None:
        """Delete what was kept of the sweep `name`; says so if it can't."""

    def send_again(
        self, sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str
    ) -> None:
        """Send all that is known of a sweep, and wait for it. Raises StudyError if it can't be kept."""
