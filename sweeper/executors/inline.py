"""The worker in this very process: no transport at all."""

from sweeper import worker
from sweeper.config import Config
from sweeper.coordinator import Coordinator
from sweeper.layout import Layout


class InlineExecutor:
    """One worker on one device; the engine calls the coordinator directly."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self._config = config
        self._layout = layout

    def run(self, coordinator: Coordinator) -> None:
        """Train until the coordinator says Done."""
        worker.run(self._config, self._layout.rows, coordinator)
