"""Checks of written answers against their inputs: copied from them, or about something else."""

import bisect
import re
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sweeper.data.checks.tally import MOST_SUSPECTS, Tally
from sweeper.data.findings import MOST_EXAMPLES, Batch, Finding
from sweeper.data.personal import masked_part

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Scripts that put no space between words: every character counts as one."""

_TOKENS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_PLAIN_TOKENS = re.compile("[a-z0-9]+")


class Copies:
    """Answers that are the input, or are found in it word for word."""

    _LONG = 8
    """Words from which on a passage that occurs in the input was taken from there."""

    def __init__(self) -> None:
        self._rows = 0
        self._same = Tally()
        self._taken = Tally()
        self._shares = array("f")

    def see(self, batch: Batch) -> None:
        self._rows += len(batch.ids)
        for row, split, text, target in zip(
            batch.ids, batch.splits, batch.inputs, batch.targets, strict=True
        ):
            given, answer = _tokens(text), _tokens(target)
            if not answer:
                continue
            known = set(given)
            share = sum(token in known for token in answer) / len(answer)
            self._shares.append(share)
            if share < 1:
                continue
            if given == answer:
                self._same.add(row, split, target, 0.8)
            elif len(answer) >= self._LONG and f" {' '.join(answer)} " in f" {' '.join(given)} ":
                self._taken.add(row, split, target, 0.3)

    def findings(self) -> Sequence[Finding]:
        median = float(np.median(np.frombuffer(self._shares, dtype=np.float32))) if self._shares else 0.0
        numbers = {"median share of answer words that the input has": median}
        found = []
        if count := self._same.count:
            found.append(
                Finding(
                    "answer is the input",
                    "error" if count > 0.5 * self._rows else "warning",
                    f"{count:,} answers repeat the whole input",
                    "Are input and answer the same column? Drop these rows, unless leaving a text as it is "
                    "may be right, as in corrections.",
                    count,
                    self._rows,
                    self._same.examples,
                    self._same.suspects,
                    numbers,
                )
            )
        if count := self._taken.count:
            found.append(
                Finding(
                    "answer is a passage",
                    "note",
                    f"{count:,} answers are passages of {self._LONG} words or more, found word for word in "
                    f"the input; of a usual answer's words the input has {median:.0%}",
                    "Fine for extraction; where answers are to be written, the model learns to quote.",
                    count,
                    self._rows,
                    self._taken.examples,
                    self._taken.suspects,
                    numbers,
                )
            )
        return found


class Unrelated:
    """Answers that have no word in common with their input, but for words that many inputs have.

    Words are compared by their first five letters, which forgives most inflections. A short input may have
    nothing in common with its answer by nature: it is told where inputs as short share nothing hardly more
    often than the longest ones do.
    """

    _LEARNED_FROM = 1000
    """Rows from which the common words are learned; they wait until then."""
    _COMMON = 0.1
    """Words in more than this share of the inputs say nothing."""
    _FEWEST = 4
    """Telling words that an answer must have to be judged."""
    _SIZES = (10, 15, 20, 30)
    """Telling words of an input from which on it is counted among the next longer ones."""
    _MORE_OFTEN = 0.03
    """Of docstrings with 30 telling words 0.8 % share none with their summary, with under 10 it is 12 %."""
    _KNOWN = 100
    """Rows that a share is known from."""

    def __init__(self) -> None:
        self._rows = 0
        self._judged = [0] * (len(self._SIZES) + 1)
        self._tallies = [Tally() for _ in self._judged]
        self._waiting: list[tuple[str, str, set[str], set[str], str]] | None = []
        self._common: set[str] = set()

    def see(self, batch: Batch) -> None:
        for row, split, text, target in zip(
            batch.ids, batch.splits, batch.inputs, batch.targets, strict=True
        ):
            self._rows += 1
            words, said = _stems(text), _stems(target)
            if self._waiting is None:
                self._judge(row, split, words, said, target)
                continue
            self._waiting.append((row, split, words, said, masked_part(target, 0, 400)))
            if len(self._waiting) == self._LEARNED_FROM:
                self._learn()

    def _learn(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        counts = Counter(word for _, _, words, _, _ in waiting for word in words)
        self._common = {word for word, count in counts.items() if count > max(2, self._COMMON * len(waiting))}
        for row, split, words, said, target in waiting:
            self._judge(row, split, words, said, target)

    def _judge(self, row: str, split: str, words: set[str], said: set[str], target: str) -> None:
        telling = said - self._common
        if len(telling) >= self._FEWEST and words:
            size = bisect.bisect_right(self._SIZES, len(words - self._common))
            self._judged[size] += 1
            if telling.isdisjoint(words):
                self._tallies[size].add(row, split, target, min(0.9, 0.4 + 0.05 * len(telling)))

    def findings(self) -> Sequence[Finding]:
        """What was seen, once all rows have passed: a finding, or none."""
        if self._waiting is not None:
            self._learn()
        told = self._told()
        count, judged = sum(tally.count for _, tally in told), sum(of for of, _ in told)
        if not count:
            return ()
        said = f"{count:,} of {judged:,} answers share no telling word with their input"
        if count > 0.5 * judged:
            said += "; so do most, as where texts are translated or rows are shifted against their answers"
        suspects = [suspect for _, tally in told for suspect in tally.suspects]
        return (
            Finding(
                "answer shares nothing",
                "note" if count > 0.5 * judged else "warning",
                said,
                "Look at them: does the answer belong to another row, or is it a refusal or boilerplate?",
                count,
                self._rows,
                tuple(example for _, tally in told for example in tally.examples)[:MOST_EXAMPLES],
                tuple(sorted(suspects, key=lambda suspect: -suspect[1])[:MOST_SUSPECTS]),
                {
                    "answers long enough to judge": float(judged),
                    "left out as their inputs are short": float(sum(self._judged) - judged),
                },
            ),
        )

    def _told(self) -> list[tuple[int, Tally]]:
        """Rows judged, and those that share nothing, by size of input; the longest ones first."""
        by_size = [(of, tally) for of, tally in zip(self._judged, self._tallies, strict=True) if of][::-1]
        known = next((place for place, (of, _) in enumerate(by_size) if of >= self._KNOWN), len(by_size))
        longest = by_size[: known + 1]
        usual = sum(tally.count for _, tally in longest) / max(1, sum(of for of, _ in longest))
        return longest + [
            (of, tally)
            for of, tally in by_size[known + 1 :]
            if tally.count <= (usual + self._MORE_OFTEN) * of
        ]


def _tokens(text: str) -> list[str]:
    lower = text.lower()
    return _PLAIN_TOKENS.findall(lower) if lower.isascii() else _TOKENS.findall(lower)


def _stems(text: str) -> set[str]:
    words = set(_tokens(text))
    if text.isascii():
        return {word[:5] for word in words if len(word) > 2}
    return {word[:5] for word in words if len(word) > 2 or not word.isascii()}
