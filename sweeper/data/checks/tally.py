"""What a check may keep of the rows: how many, the most telling of them, and a fair sample."""

import heapq
from collections.abc import Sequence

import numpy as np

from sweeper.data.findings import MOST_EXAMPLES, Batch, Example, excerpt, printable

MOST_SUSPECTS = 200
"""Rows of one kind that are kept for the review queue."""

_KEPT_CHARACTERS = 400


def _seen(text: str) -> str:
    return printable(excerpt(text[:_KEPT_CHARACTERS]))


class Tally:
    """Counts rows of one kind and keeps the most suspicious; of equals, the first."""

    def __init__(self, most: int = MOST_SUSPECTS) -> None:
        self.count = 0
        self._most = most
        self._heap: list[tuple[float, int, str, str, str]] = []

    def add(self, row: str, split: str, text: str, score: float = 0.5) -> None:
        """Count row `row`, of which `text` is to be seen; `score` is its suspicion between 0 and 1."""
        self.count += 1
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, (score, -self.count, row, split, _seen(text)))
        elif score > self._heap[0][0]:
            heapq.heapreplace(self._heap, (score, -self.count, row, split, _seen(text)))

    @property
    def examples(self) -> tuple[Example, ...]:
        return tuple(Example(row, split, text) for _, _, row, split, text in self._sorted()[:MOST_EXAMPLES])

    @property
    def suspects(self) -> tuple[tuple[str, float], ...]:
        return tuple((row, score) for score, _, row, _, _ in self._sorted())

    def _sorted(self) -> list[tuple[float, int, str, str, str]]:
        return sorted(self._heap, reverse=True)


class Sample:
    """`size` rows drawn evenly from all, the same for the same seed however the rows are batched.

    The rows with the smallest random numbers stay (Vitter, ACM TOMS 11, 1985, calls it a reservoir).
    """

    def __init__(self, size: int, seed: int, characters: int) -> None:
        self.seen = 0
        self._size = size
        self._characters = characters
        self._generator = np.random.default_rng(seed)
        self._heap: list[tuple[float, int, str, str, str, str]] = []

    def see(self, batch: Batch) -> None:
        draws = self._generator.random(len(batch.ids)).tolist()
        worst = -self._heap[0][0] if len(self._heap) == self._size else 1.0
        for place, draw in enumerate(draws):
            self.seen += 1
            if draw >= worst:
                continue
            text = batch.inputs[place][: self._characters]
            target = batch.targets[place][: self._characters]
            row = (-draw, self.seen, batch.ids[place], batch.splits[place], text, target)
            if len(self._heap) < self._size:
                heapq.heappush(self._heap, row)
            else:
                heapq.heapreplace(self._heap, row)
            if len(self._heap) == self._size:
                worst = -self._heap[0][0]

    @property
    def rows(self) -> Sequence[tuple[str, str, str, str]]:
        """(id, split, input, target), cut to the stated length, in the order in which they were seen."""
        return [row[2:] for row in sorted(self._heap, key=lambda row: row[1])]
