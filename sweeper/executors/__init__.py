"""Where workers run: an executor carries the three verbs of a Channel between worker and coordinator."""

from typing import Protocol

from sweeper.config import Config
from sweeper.coordinator import Coordinator
from sweeper.layout import Layout


class Executor(Protocol):
    """Runs workers on a coordinator until it says Done to all of them."""

    def run(self, coordinator: Coordinator) -> None:
        """Returns when no worker is left; a worker that dies is the executor's to report."""


def make_executor(config: Config, layout: Layout) -> Executor:
    """The executor that `config.executor` names."""
    from sweeper.executors.inline import InlineExecutor

    return {"inline": InlineExecutor}[config.executor.name](config, layout)
