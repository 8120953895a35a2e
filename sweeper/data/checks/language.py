"""Checks of language and spelling on a sample of the rows."""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.data.checks.quality import Kind
from sweeper.data.checks.tally import Sample
from sweeper.data.findings import MOST_EXAMPLES, Batch, Example, Finding, excerpt, printable

SAMPLED = 2000
"""Rows that are looked at; all, where there are no more. A share of 1 % is then known to +-0.5 points."""

_CHARACTERS = 1000
"""Looked at of each text."""

_LETTERS = 40
"""Texts with fewer have no language that could be told."""

_SURE = 0.5
"""Probability below which py3langid's guess is not used."""

_CLEAR = 0.9
"""Probability from which on a single row is shown as being in another language."""


@dataclass(frozen=True)
class _Guess:
    language: str
    """ISO 639-1, "" if unsure."""
    clear: bool


class Languages:
    """Which languages the inputs and answers of a sample are in; rows clearly in another one are shown."""

    _MAIN = 0.6
    """Share of the sure texts from which on a language is the main one, and others are foreign."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self._answers = kind == "generate"
        self._sample = Sample(SAMPLED, seed, _CHARACTERS)

    def see(self, batch: Batch) -> None:
        self._sample.see(batch)

    def findings(self) -> Sequence[Finding]:
        rows = self._sample.rows
        found = [self._field("input", [(row[0], row[1], row[2]) for row in rows])]
        if self._answers:
            found.append(self._field("answer", [(row[0], row[1], row[3]) for row in rows]))
        return [finding for finding in found if finding]

    def _field(self, field: str, texts: Sequence[tuple[str, str, str]]) -> Finding | None:
        guesses = _guess(text for _, _, text in texts)
        sure = Counter(guess.language for guess in guesses if guess.language)
        if len(sure) < 2:
            return None
        main, most = sure.most_common(1)[0]
        if most >= self._MAIN * sure.total():
            foreign = [
                row
                for row, guess in zip(texts, guesses, strict=True)
                if guess.clear and guess.language != main
            ]
            if not foreign:
                return None
            said = f"{len(foreign):,} of {len(texts):,} sampled {field}s are clearly not in `{main}`"
        else:
            foreign, said = [], f"The {field}s of {len(texts):,} sampled rows are in several languages"
        shares = {f"{field}s in {name}": count / len(texts) for name, count in sure.most_common(10)}
        shares[f"{field}s unsure"] = 1 - sure.total() / len(texts)
        told = ", ".join(f"{name} {count / sure.total():.1%}" for name, count in sure.most_common(5))
        return Finding(
            "languages",
            "warning" if foreign else "note",
            f"{said} ({told})",
            "Drop or translate what is in the wrong language; if several are meant, judge each by itself.",
            len(foreign) or sure.total() - most,
            len(texts),
            tuple(
                Example(row, split, printable(excerpt(text))) for row, split, text in foreign[:MOST_EXAMPLES]
            ),
            tuple((row, 0.6) for row, _, _ in foreign[:200]),
            shares,
        )


class Spelling:
    """The share of words of a sample that no word list of the main language knows.

    Names, code and abbreviations are no words; what several rows write the same way is jargon. Abstains for
    languages without a word list.
    """

    _WORDS = 300
    """A rate from fewer words says nothing."""
    _JARGON = 3
    """Sampled rows from which on an unknown word is jargon."""
    _HIGH = 0.1
    """Edited texts stay under 3 % by this measure; hasty chats reach 10 %."""
    _HIGH_ROW = 0.35
    _ROW_WORDS = 8

    def __init__(self, seed: int) -> None:
        self._sample = Sample(SAMPLED, seed, _CHARACTERS)

    def see(self, batch: Batch) -> None:
        self._sample.see(batch)

    def findings(self) -> Sequence[Finding]:
        """The rate of unknown words, and the rows with most; nothing for a language without a word list."""
        rows = self._sample.rows
        guesses = _guess(row[2] for row in rows)
        sure = Counter(guess.language for guess in guesses if guess.language)
        main = sure.most_common(1)[0][0] if sure else ""
        known = _word_list(main) if main else None
        if known is None:
            return ()
        # The words of another language are a matter of `Languages`.
        rows = [row for row, guess in zip(rows, guesses, strict=True) if guess.language in (main, "")]
        words = [_words(f"{text} {target}") for _, _, text, target in rows]
        unknown = [[word for word in row if not known(word)] for row in words]
        spread = Counter(word for row in unknown for word in set(row))
        wrong = [[word for word in row if spread[word] < self._JARGON] for row in unknown]
        total, misspelt = sum(map(len, words)), sum(map(len, wrong))
        if total < self._WORDS:
            return ()
        bad = sorted(
            (
                (len(mine) / len(all_), place)
                for place, (mine, all_) in enumerate(zip(wrong, words, strict=True))
                if len(all_) >= self._ROW_WORDS and len(mine) >= self._HIGH_ROW * len(all_)
            ),
            key=lambda item: (-item[0], item[1]),
        )
        rate = misspelt / total
        if rate < self._HIGH and not bad:
            return ()
        common = Counter(word for row in wrong for word in row).most_common(5)
        return (
            Finding(
                "spelling",
                "warning" if rate >= self._HIGH else "note",
                f"{rate:.1%} of {total:,} words in {len(rows):,} sampled rows are unknown, e.g. "
                f"{', '.join(word for word, _ in common)}; {len(bad):,} rows have "
                f"{self._HIGH_ROW:.0%} or more",
                "Look at the rows with most: typing errors, badly recognised scans, or another language?",
                len(bad),
                len(rows),
                tuple(
                    Example(rows[place][0], rows[place][1], printable(excerpt(rows[place][2])))
                    for _, place in bad[:MOST_EXAMPLES]
                ),
                tuple((rows[place][0], min(0.6, share)) for share, place in bad[:200]),
                {"spelling rate": rate},
            ),
        )


def _guess(texts: Iterable[str]) -> list[_Guess]:
    guesses = []
    for text in texts:
        letters = sum(map(str.isalpha, text))
        # A character of a script without an alphabet tells as much as several letters.
        told = letters + 2 * sum(char > "\u2e80" for char in text)
        if told < _LETTERS or letters < 0.4 * len(text):
            guesses.append(_Guess("", clear=False))
            continue
        language, probability = _identifier().classify(text)
        sure = probability >= _SURE and math.isfinite(probability) and language != "zxx"
        guesses.append(_Guess(language if sure else "", clear=sure and probability >= _CLEAR))
    return guesses


@functools.cache
def _identifier() -> Any:
    """The language model of py3langid, whose loading takes half a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _word_list(language: str) -> Any:
    """Whether a word is in the list for `language`, as a function; None where there is no list."""
    from spellchecker import SpellChecker

    if language not in SpellChecker.languages():
        return None
    return SpellChecker(language=language, distance=1).word_frequency.__contains__


def _words(text: str) -> list[str]:
    """Words in small letters: three letters or more, no part of a name, a path, a number or code."""
    return _WORD.findall(text)


_WORD = re.compile(r"(?<![\w./\\@#$'\u2019_-])[^\W\d_A-Z]{3,24}(?![\w/\\@(_'\u2019=-]|\.\w)")
