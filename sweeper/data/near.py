"""Near-duplicates among many texts: which texts have most of their tokens in common.

The similarity of two texts is the share of tokens they have in common, 2 |A n B| / (|A| + |B|), counting
repetitions, not order: of two texts of ten words, two words replaced, it is 0.8. Texts that share a key
are compared; time and memory grow with the number of texts, whatever they are.
"""

import hashlib
import math
import tempfile
import weakref
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sweeper.data.shingles import BANDS, MOST_TOKENS, Sketcher, normal
from sweeper.data.splits import Codes

Pairs = tuple[Codes, Codes]

_WINDOW = 8
"""Under one key a text is compared with so many that follow it."""
_MOST_COMPARISONS = 48
"""Texts compared in vain so often are not compared again: they share keys by their boilerplate."""
_TOKENS_AT_ONCE = 2_000_000
_CHARACTERS_AT_ONCE = 1_000_000
_KEYS_AT_ONCE = 8


def clusters(texts: Iterable[str], threshold: float = 0.8) -> Codes:
    """[texts] integers that are equal for near-duplicates, and for near-duplicates of near-duplicates.

    Numbered from 0 in the order in which they first occur. Texts without any character but spaces are
    duplicates of nothing. Raises ValueError for a threshold that is not above 0.5 and at most 1.
    """
    near = NearDuplicates(threshold)
    for some in _batches(texts):
        near.add(some)
    return near.match(np.zeros(len(near.digests), dtype=np.int64), 1).codes


@dataclass(frozen=True)
class Matches:
    """Which texts are near-duplicates."""

    codes: Codes
    """[texts] as `clusters` gives them."""
    twins: Codes
    """[texts, kinds] the number of a near-duplicate of that kind, not equal to the text itself; else -1."""


class NearDuplicates:
    """Takes texts in batches, keeps a sketch of each in a temporary file, and matches them at the end."""

    def __init__(self, threshold: float = 0.8) -> None:
        """Raises ValueError for a threshold that is not above 0.5 and at most 1."""
        if not 0.5 < threshold <= 1:
            raise ValueError(f"a threshold of {threshold} for near-duplicates; give one above 0.5, at most 1")
        self._threshold = threshold
        self._sketcher = Sketcher(threshold)
        self._digests, self._sizes = array("Q"), array("q")
        self._tokens: IO[bytes] = scratch(self)
        self._keys: IO[bytes] = scratch(self)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """[texts] equal for texts that differ in case, spacing and Unicode form only."""
        return np.array(self._digests, dtype=np.uint64)

    @property
    def blank(self) -> NDArray[np.bool_]:
        """[texts] whether there is nothing to compare."""
        blank: NDArray[np.bool_] = np.array(self._sizes, dtype=np.int64) == 0
        return blank

    def add(self, texts: Iterable[str]) -> None:
        """Take some more texts."""
        normalised = [normal(text) for text in texts]
        if not normalised:
            return
        sketches = self._sketcher.sketch(normalised)
        self._digests.extend(map(digest, normalised))
        self._sizes.extend(sketches.sizes.tolist())
        self._tokens.write(sketches.tokens.tobytes())
        self._keys.write(sketches.keys.tobytes())

    def match(self, kinds: Codes, number_of_kinds: int) -> Matches:
        """Find near-duplicates among all texts, for each text one of every kind if there is one.

        `kinds` has an integer below `number_of_kinds` for each text, e.g. its split.
        """
        digests, blank = self.digests, self.blank
        shown = np.flatnonzero(~blank)
        # Copies would fill the windows under their keys; one per kind stands for all.
        _, first, copy_of = np.unique(
            np.stack([digests[shown], kinds[shown].astype(np.uint64)]), axis=1, return_index=True,
            return_inverse=True,
        )  # fmt: skip
        rows = shown[first]
        matcher = _Matcher(self._open(rows), digests[rows], kinds[rows], number_of_kinds, self._threshold)
        matcher.run()
        codes = np.arange(len(digests)) + len(rows)
        codes[shown] = matcher.components[copy_of.ravel()]
        twins = np.full((len(digests), number_of_kinds), -1)
        found = matcher.twins[copy_of.ravel()]
        twins[shown] = np.where(found >= 0, rows[found] if len(rows) else -1, -1)
        return Matches(_renumbered(codes), twins)

    def _open(self, rows: Codes) -> "_Stored":
        self._tokens.flush()
        self._keys.flush()
        sizes = np.array(self._sizes, dtype=np.int64)
        kept = np.minimum(sizes, MOST_TOKENS)
        starts = np.cumsum(kept) - kept
        return _Stored(
            rows, _mapped(self._tokens), _mapped(self._keys).reshape(-1, BANDS), starts[rows], sizes[rows]
        )


def scratch(owner: object) -> IO[bytes]:
    """A temporary file that is removed together with its owner."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the owner has no end that it could be told of
    weakref.finalize(owner, file.close)
    return file


def digest(normalised: str) -> int:
    """64 bits of a text."""
    data = normalised.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


@dataclass(frozen=True)
class _Stored:
    """The sketches of some texts, on disk."""

    rows: Codes
    tokens: NDArray[np.uint32]
    all_keys: NDArray[np.uint32]
    starts: Codes
    sizes: Codes

    def keys(self, band: int, count: int) -> NDArray[np.uint32]:
        """[count, texts] the keys of `count` bands from `band` on, round about."""
        return np.stack([self.all_keys[self.rows, at % BANDS] for at in range(band, band + count)])

    def some_tokens(self, texts: Codes) -> tuple[NDArray[np.uint32], Codes]:
        """The tokens of `texts`, one after the other; [tokens] whose they are, as a place in `texts`."""
        kept = np.minimum(self.sizes[texts], MOST_TOKENS)
        before = np.cumsum(kept) - kept
        places = np.repeat(self.starts[texts] - before, kept) + np.arange(kept.sum())
        return self.tokens[places], np.repeat(np.arange(len(texts)), kept)


class _Matcher:
    """Compares texts that share a key until it is known which belong together."""

    def __init__(
        self, stored: _Stored, digests: NDArray[np.uint64], kinds: Codes, number_of_kinds: int,
        threshold: float,
    ) -> None:  # fmt: skip
        self._stored, self._digests, self._kinds, self._threshold = stored, digests, kinds, threshold
        self.components = np.arange(len(kinds))
        self.twins = np.full((len(kinds), number_of_kinds), -1)
        self._in_vain = np.zeros(len(kinds), dtype=np.int64)

    def run(self) -> None:
        if len(self._kinds) < 2:
            return
        self._join(*_equal(self._digests))
        for band in range(0, BANDS, _KEYS_AT_ONCE):
            keys = self._stored.keys(band, _KEYS_AT_ONCE + 1).astype(np.uint64)
            for mine, following in pairwise(keys):
                # Under a key that many share, those that agree in the next key too stand together.
                joint = (mine << np.uint64(32)) | following
                order = np.argsort(joint, kind="stable")
                for left, right in _close(mine[order], order):
                    self._compare(left, right)

    def _compare(self, left: Codes, right: Codes) -> None:
        useful = self._useful(left, right)
        left, right = left[useful], right[useful]
        for start, end in self._chunks(left, right):
            a, b = left[start:end], right[start:end]
            similar = self._similar(a, b)
            np.add.at(self._in_vain, a[~similar], 1)
            np.add.at(self._in_vain, b[~similar], 1)
            a, b = a[similar], b[similar]
            self.twins[a, self._kinds[b]] = b
            self.twins[b, self._kinds[a]] = a
            self._join(a, b)

    def _useful(self, a: Codes, b: Codes) -> NDArray[np.bool_]:
        """Pairs that can tell something new, and can be similar at all."""
        news = (
            (self.components[a] != self.components[b])
            | (self.twins[a, self._kinds[b]] < 0)
            | (self.twins[b, self._kinds[a]] < 0)
        )
        news &= self._digests[a] != self._digests[b]
        news &= np.minimum(self._in_vain[a], self._in_vain[b]) < _MOST_COMPARISONS
        sizes_a, sizes_b = self._stored.sizes[a], self._stored.sizes[b]
        fits = 2 * np.minimum(sizes_a, sizes_b) >= self._threshold * (sizes_a + sizes_b)
        useful: NDArray[np.bool_] = news & fits
        return useful

    def _chunks(self, a: Codes, b: Codes) -> Iterable[tuple[int, int]]:
        tokens = np.minimum(self._stored.sizes[a], MOST_TOKENS) + np.minimum(
            self._stored.sizes[b], MOST_TOKENS
        )
        number = np.cumsum(tokens) // _TOKENS_AT_ONCE
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(a)]
        return pairwise(edges) if len(a) else ()

    def _similar(self, a: Codes, b: Codes) -> NDArray[np.bool_]:
        """[pairs] whether the share of common tokens reaches the threshold."""
        (left, of_left), (right, of_right) = self._stored.some_tokens(a), self._stored.some_tokens(b)
        pair = np.concatenate([of_left, of_right]).astype(np.uint64)
        found = np.sort((pair << np.uint64(32)) | np.concatenate([left, right]))
        twice = found[1:][found[1:] == found[:-1]] >> np.uint64(32)
        common = np.bincount(twice.astype(np.int64), minlength=len(a))
        sizes_a, sizes_b = self._stored.sizes[a], self._stored.sizes[b]
        similar: NDArray[np.bool_] = 2 * common >= self._threshold * (sizes_a + sizes_b) - 1e-9
        for number in np.flatnonzero(np.maximum(sizes_a, sizes_b) > MOST_TOKENS):
            similar[number] = self._similar_by_sample(left[of_left == number], right[of_right == number])
        return similar

    def _similar_by_sample(self, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> bool:
        """The smallest hashes of either are those of both together: a random sample of their union."""
        jaccard = self._threshold / (2 - self._threshold)
        union = np.union1d(a, b)[:MOST_TOKENS]
        common = np.intersect1d(a, b, assume_unique=True)
        share = float(np.count_nonzero(common <= union[-1])) / len(union)
        return share >= jaccard - 2 * math.sqrt(jaccard * (1 - jaccard) / len(union))

    def _join(self, a: Codes, b: Codes) -> None:
        """The components of a and b become one."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left, right = self.components[a], self.components[b]
        news = left != right
        if news.any():
            touched, ends = np.unique(np.stack([left[news], right[news]]), return_inverse=True)
            ends = ends.reshape(2, -1)
            graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(len(touched),) * 2)
            whole = connected_components(graph, directed=False)[1]
            _, first = np.unique(whole, return_index=True)
            renamed = np.arange(len(self.components))
            renamed[touched] = touched[first[whole]]
            self.components = renamed[self.components]


def _close(keys: NDArray[np.uint64], order: Codes) -> Iterable[Pairs]:
    """Pairs of texts under the same key that stand at most _WINDOW apart; `keys` are sorted by `order`."""
    for distance in range(1, min(_WINDOW + 1, len(keys))):
        same = keys[distance:] == keys[:-distance]
        if not same.any():
            return
        yield order[:-distance][same], order[distance:][same]


def _equal(digests: NDArray[np.uint64]) -> Pairs:
    order = np.argsort(digests, kind="stable")
    same = digests[order][1:] == digests[order][:-1]
    return order[:-1][same], order[1:][same]


def _renumbered(codes: Codes) -> Codes:
    """The same groups, numbered in the order in which they first occur."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    renumbered: Codes = rank[inverse]
    return renumbered


def _mapped(file: IO[Any]) -> NDArray[np.uint32]:
    if file.seek(0, 2) == 0:
        return np.empty(0, dtype=np.uint32)
    return np.memmap(file, dtype=np.uint32, mode="r")


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == 1000 or characters > _CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    yield batch
