"""Where workers run: an executor carries the three verbs of a Channel between worker and coordinator."""

from typing import TYPE_CHECKING, Protocol

from sweeper.config import Config
from sweeper.layout import Layout

if TYPE_CHECKING:  # workers' processes import this package, and don't need what a coordinator does
    from sweeper.coordinator import Coordinator


class Executor(Protocol):
    """Runs workers on a coordinator until it says Done to all of them."""

    workers: int
    """How many there are."""
    elsewhere: bool
    """Whether they train in other processes than this one."""
    about: str
    """How many workers are where, in words."""

    def run(self, coordinator: "Coordinator") -> None:
        """Returns when no worker is left; a worker that dies is the executor's to report.

        Raises ModelError or DataError if a worker can't load model or rows, SweepFailed if none comes up.
        """


def make_executor(config: Config, layout: Layout) -> Executor:
    """The executor that `config.executor` names; auto: what fits the number of workers."""
    if config.executor.name == "ray":
        from sweeper.executors.ray import RayExecutor

        return RayExecutor(config, layout)
    from sweeper.executors.inline import InlineExecutor
    from sweeper.executors.local import LocalExecutor
    from sweeper.executors.places import find_places

    places = find_places(config)[: config.budget.trials]  # more would have nothing to do
    name = config.executor.name
    if name == "inline" or (name == "auto" and len(places) == 1):
        return InlineExecutor(config, layout, places[0])
    return LocalExecutor(config, layout, places)
