"""How long inputs and answers are."""

import bisect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.data.findings import Batch

_STEPS = (1, 2, 3, 5, 7)
"""Bins begin at these times powers of ten: about equally wide where lengths are compared by their ratio."""

_EDGES = (0, *(step * 10**power for power in range(7) for step in _STEPS))


@dataclass(frozen=True)
class Histogram:
    """Rows by length in characters."""

    edges: tuple[int, ...]
    """Where the bins begin; each ends where the next one begins, the last one never."""
    counts: tuple[int, ...]
    """Rows in each bin."""


class Lengths:
    """Counts characters of inputs and answers."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {"input": Counter(), "answer": Counter()}

    def see(self, batch: Batch) -> None:
        """Count a batch."""
        for name, texts in (("input", batch.inputs), ("answer", batch.targets)):
            self._counts[name].update(map(len, texts))

    def histograms(self) -> Mapping[str, Histogram]:
        """By `input` and `answer`; none of answers where there are none."""
        return {name: _binned(counts) for name, counts in self._counts.items() if set(counts) - {0}}


def _binned(lengths: Mapping[int, int]) -> Histogram:
    bins: Counter[int] = Counter()
    for length, rows in lengths.items():
        bins[bisect.bisect_right(_EDGES, length) - 1] += rows
    first, last = min(bins), max(bins)
    span = range(first, last + 1)
    return Histogram(tuple(_EDGES[i] for i in span), tuple(bins[i] for i in span))
