"""Texts as sets of tokens, and as keys that similar texts are likely to share (MinHash), many at a time.

A. Broder, On the resemblance and containment of documents (1997); keys as in J. Leskovec, A. Rajaraman,
J. Ullman, Mining of Massive Datasets, chapter 3.
"""

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]

BANDS = 96
"""Keys per text; two texts are compared if one of them agrees."""

MOST_TOKENS = 1024
"""Of a longer text those with the smallest hashes are kept: a sample that similar texts choose alike."""

_CHANCE = 0.99
"""Similar texts are to share a key with at least this probability."""
_MOST_ROWS = 4
"""Minima per key; more separate better and cost more time."""
_SEED = 20_250_101
_KNOWN_WORDS = 200_000

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no spaces between words: each letter is a token."""
_TOKEN = re.compile(rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]")


def normal(text: str) -> str:
    """`text` without differences of case, spacing and Unicode form."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def tokens(normalised: str) -> list[str]:
    """Words, and letters of scripts without spaces; where there is neither, all other characters."""
    return _TOKEN.findall(normalised) or list(normalised.replace(" ", ""))


@dataclass(frozen=True)
class Sketches:
    """What is kept of some texts."""

    tokens: Hashes
    """The tokens of one text after the other; the second "the" of a text is another token than its first."""
    kept: NDArray[np.int64]
    """[texts] how many of them are each text's."""
    sizes: NDArray[np.int64]
    """[texts] how many it would be without the limit of MOST_TOKENS."""
    keys: Hashes
    """[texts, BANDS]"""


class Sketcher:
    """Makes sketches for one threshold of similarity; equal texts get equal sketches, in any process."""

    def __init__(self, threshold: float) -> None:
        self._rows = _rows_per_band(threshold)
        draw = np.random.default_rng(_SEED).integers
        shape = (self._rows, BANDS)
        self._factors = draw(0, 2**31, shape, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        self._offsets = draw(0, 2**32, shape, dtype=np.uint32)
        self._words = _Words()

    def sketch(self, normalised: Sequence[str]) -> Sketches:
        """The sketches of texts that went through `normal`."""
        words = [tokens(text) for text in normalised]
        sizes = np.array([len(some) for some in words], dtype=np.int64)
        if len(self._words) > _KNOWN_WORDS:
            self._words.clear()
        flat = np.fromiter(
            map(self._words.__getitem__, chain.from_iterable(words)), dtype=np.uint32, count=int(sizes.sum())
        )
        kept, counts = _smallest(_distinct(flat, sizes), sizes)
        return Sketches(kept, counts, sizes, self._keys(flat, sizes))

    def _keys(self, flat: Hashes, sizes: NDArray[np.int64]) -> Hashes:
        shingles, counts = _smallest(_neighbours(flat, sizes), sizes + 1)
        starts = np.cumsum(counts) - counts
        keys = np.zeros((BANDS, len(sizes)), dtype=np.uint32)
        for factors, offsets in zip(self._factors, self._offsets, strict=True):
            for band in range(BANDS):
                least = np.minimum.reduceat(shingles * factors[band] + offsets[band], starts)
                keys[band] = _mix(keys[band] * np.uint32(31) + least)
        return np.ascontiguousarray(keys.T)


def _rows_per_band(threshold: float) -> int:
    """How many minima make a key, so that texts at the threshold still meet.

    Hardest to find is a text with single tokens left out here and there: it keeps a share of the tokens,
    and the square of that share of the pairs of neighbours.
    """
    share = threshold / (2 - threshold)
    jaccard = share**2 / (1 + share - share**2)
    rows = 1
    while rows < _MOST_ROWS and 1 - (1 - jaccard ** (rows + 1)) ** BANDS >= _CHANCE:
        rows += 1
    return rows


class _Words(dict[str, int]):
    """Hashes of words; Python's own would differ from process to process."""

    def __missing__(self, word: str) -> int:
        value = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return value


def _neighbours(flat: Hashes, sizes: NDArray[np.int64]) -> Hashes:
    """Hashes of the pairs of neighbouring tokens; a text's ends are neighbours of nothing, also a pair."""
    row = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(flat)) + row
    left, right = np.zeros((2, len(flat) + len(sizes)), dtype=np.uint32)
    right[place] = flat
    left[place + 1] = flat
    return _mix(_mix(left) * np.uint32(0x9E3779B1) + right)


def _distinct(flat: Hashes, sizes: NDArray[np.int64]) -> Hashes:
    """[tokens] repetitions within a text told apart, by the number of the repetition."""
    row = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    keys = np.sort((row << np.uint64(32)) | flat)
    places = np.arange(len(keys))
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    repetition = places - np.maximum.accumulate(np.where(first, places, 0))
    return _mix(_mix(keys.astype(np.uint32)) + repetition.astype(np.uint32) * np.uint32(0x9E3779B1))


def _smallest(values: Hashes, sizes: NDArray[np.int64]) -> tuple[Hashes, NDArray[np.int64]]:
    """Each text's values in ascending order, at most MOST_TOKENS of them; how many are each text's."""
    row = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    ordered = np.sort((row << np.uint64(32)) | values).astype(np.uint32)
    counts = np.minimum(sizes, MOST_TOKENS)
    if (counts < sizes).any():
        starts = np.cumsum(sizes) - sizes
        ordered = ordered[np.arange(len(ordered)) - np.repeat(starts, sizes) < MOST_TOKENS]
    return ordered, counts


def _mix(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the last step of MurmurHash3)."""
    values = values ^ (values >> np.uint32(16))
    values = values * np.uint32(0x85EBCA6B)
    values = values ^ (values >> np.uint32(13))
    values = values * np.uint32(0xC2B2AE35)
    mixed: Hashes = values ^ (values >> np.uint32(16))
    return mixed
