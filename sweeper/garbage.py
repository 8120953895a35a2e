"""Python's garbage collector, kept from looking through what stays.

A full collection looks at every object there is: with thousands of trials in memory, and libraries, it would
keep all workers waiting for half a second.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from sweeper.events import Listener, TrialRecord

_TRIALS = 100
"""Between two calls of `keep` in a long sweep."""


def keep() -> None:
    """Collect what is garbage by now; collections to come leave out what is not."""
    gc.collect()
    gc.freeze()


@contextmanager
def reading() -> Iterator[None]:
    """No collections while much is read that stays: they come the more often, the more there is."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Keeper(Listener):
    """Listener that keeps what becomes known of the trials of a long sweep out of collections.

    Only for a process that trains nothing: what is left of a model when its trial is over has to go.
    """

    def __init__(self) -> None:
        self._ended = 0

    def ended(self, trial: TrialRecord) -> None:
        """Keep what there is, now and then."""
        self._ended += 1
        if self._ended % _TRIALS == 0:
            keep()
