"""The worker in this very process: no transport at all."""

from sweeper import worker
from sweeper.config import Config
from sweeper.coordinator import Coordinator
from sweeper.executors.places import Place, in_words
from sweeper.layout import Layout


class InlineExecutor:
    """One worker on one device; the engine calls the coordinator directly."""

    workers = 1
    elsewhere = False

    def __init__(self, config: Config, layout: Layout, place: Place) -> None:
        self._config = config
        self._layout = layout
        self.about = f"{in_words([place])}, in this process"

    def run(self, coordinator: Coordinator) -> None:
        """Train until the coordinator says Done."""
        worker.run(self._config, self._layout.rows, coordinator)
