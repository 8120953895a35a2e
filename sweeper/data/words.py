"""Small changes to the words of a text; the blanks between them, and so the layout, stay."""

import re
from collections.abc import Collection, Mapping, Sequence
from random import Random

_GAP = re.compile(r"(\s+)")


def bare_words(text: str) -> frozenset[str]:
    """The words of a text without the punctuation around them, casefolded."""
    return frozenset(bare(word).casefold() for word in text.split()) - {""}


def bare(word: str) -> str:
    """`word` without the punctuation around it; "" where there is nothing else."""
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and not word[end - 1].isalnum():
        end -= 1
    return word[start:end]


class Changes:
    """Changes one text at a time, by name: insertion, deletion, swap, synonyms."""

    def __init__(self, share: float, synonyms: Mapping[str, Sequence[str]]) -> None:
        """`share` of the words of a text is changed, one at least; `synonyms` by casefolded word."""
        self._share = share
        self._synonyms = synonyms

    def apply(self, method: str, text: str, kept: Collection[str], rng: Random) -> str:
        """`text` with some words changed; as it was where nothing can be.

        `kept` are words, bare and casefolded, that stay where and what they are.
        """
        # Words at even places, the blanks after them at odd ones; "" at the ends where blanks begin or end.
        parts = _GAP.split(text)
        words = [place for place in range(0, len(parts), 2) if parts[place]]
        free = [place for place in words if bare(parts[place]).casefold() not in kept]
        if not words:
            return text
        count = max(1, round(self._share * len(words)))
        if method == "insertion":
            self._insert(parts, words, count, rng)
        elif method == "deletion":
            _delete(parts, _some(free, min(count, len(words) - 1), rng))
        elif method == "swap":
            _swap(parts, _some(free, max(2, count), rng))
        else:
            self._exchange(parts, free, count, rng)
        return "".join(parts)

    def _insert(self, parts: list[str], words: Sequence[int], count: int, rng: Random) -> None:
        sources = [bare(parts[place]) for place in words if bare(parts[place])]
        for _ in range(count if sources else 0):
            word, place = rng.choice(sources), rng.choice(words)
            parts[place] = f"{self._synonym(word, rng) or word} {parts[place]}"

    def _exchange(self, parts: list[str], free: Sequence[int], count: int, rng: Random) -> None:
        listed = [place for place in free if bare(parts[place]).casefold() in self._synonyms]
        for place in _some(listed, count, rng):
            word = bare(parts[place])
            start = parts[place].index(word)
            end = start + len(word)
            parts[place] = parts[place][:start] + self._synonym(word, rng) + parts[place][end:]

    def _synonym(self, word: str, rng: Random) -> str:
        """A synonym in the case of `word`, "" if there is none."""
        known = self._synonyms.get(word.casefold(), ())
        if not known:
            return ""
        found = rng.choice(known)
        if len(word) > 1 and word.isupper():
            return found.upper()
        return found[:1].upper() + found[1:] if word[:1].isupper() else found


def _some(places: Sequence[int], count: int, rng: Random) -> list[int]:
    """Up to `count` of these places, in random order."""
    return rng.sample(places, min(count, len(places)))


def _delete(parts: list[str], places: Sequence[int]) -> None:
    for place in places:
        parts[place] = ""
        # One of the two gaps around it goes too; at the end of the text the one before.
        gap = place + 1 if place + 1 < len(parts) else place - 1
        if gap > 0:
            parts[gap] = ""


def _swap(parts: list[str], places: Sequence[int]) -> None:
    for one, other in zip(places[::2], places[1::2], strict=False):
        parts[one], parts[other] = parts[other], parts[one]
