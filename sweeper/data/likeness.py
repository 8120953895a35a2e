"""Which rows are alike: what must not be in two splits, and what cleaning leaves out for it."""

from array import array

import numpy as np
from numpy.typing import NDArray

from sweeper.config import DataConfig
from sweeper.data.cleaning import KEPT, NEAR
from sweeper.data.near import NearDuplicates
from sweeper.data.splits import Codes

_ROWS, _CHARACTERS = 1000, 1_000_000
"""So many are handed over at once."""


class Likenesses:
    """Compares all rows with each other, in time that grows with their number; they are held on disk."""

    def __init__(self, data: DataConfig) -> None:
        self._data = data
        self._contents = array("Q")
        self._texts: list[str] = []
        self._characters = 0
        wanted = data.keep_together or NEAR in data.cleaning
        self._near = NearDuplicates(data.audit.near_duplicates) if wanted else None

    def add(self, content: bytes, compared: str) -> None:
        """The next row: eight bytes that stand for its raw content, and the text to compare."""
        self._contents.append(int.from_bytes(content))
        if self._near is not None:
            self._texts.append(compared)
            self._characters += len(compared)
            if len(self._texts) == _ROWS or self._characters > _CHARACTERS:
                self._hand_over(self._near)

    def find(self, left_out: NDArray[np.int8], kept: NDArray[np.bool_]) -> Codes:
        """[rows] integers, equal for rows that must not be in two splits.

        Those are near-duplicates, or copies alone without `data.keep_together`. Marks in `left_out` what
        the cleaning step near_duplicates leaves out, which is no row that a person has `kept`.
        """
        contents = np.array(self._contents, dtype=np.uint64)
        _, first, copies = np.unique(contents, return_index=True, return_inverse=True)
        if self._near is None:
            return copies
        self._hand_over(self._near)
        clusters = self._near.match(np.zeros(len(contents), dtype=np.int64), 1).codes
        if NEAR in self._data.cleaning:
            _leave_out(left_out, clusters, self._data.cleaning.index(NEAR), kept)
        # A copy that an early step left out was compared before later steps had changed the first one.
        return clusters[first[copies]] if self._data.keep_together else copies

    def _hand_over(self, near: NearDuplicates) -> None:
        near.add(self._texts)
        self._texts, self._characters = [], 0


def _leave_out(left_out: NDArray[np.int8], clusters: Codes, number: int, kept: NDArray[np.bool_]) -> None:
    """Mark all but the first of every cluster, in place, among rows that step `number` gets to see."""
    seen = np.flatnonzero((left_out == KEPT) | (left_out > number))
    stays = kept[seen]
    stays[np.unique(clusters[seen], return_index=True)[1]] = True
    left_out[seen[~stays]] = number
