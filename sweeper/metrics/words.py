"""Texts as words, in every script."""

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that put no spaces between words: there every character counts as one."""

_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_CACHED_STEMS = 100_000


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case."""
    return _WORD.findall(text.lower())


def bare_words(text: str) -> list[str]:
    """What SQuAD's evaluation compares: lower case, no punctuation, no English articles.

    Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016.
    """
    bare = "".join(letter for letter in text.lower() if not _is_mark(letter))
    return _PIECE.findall(_ARTICLE.sub(" ", bare))


class Stems:
    """A tokenizer for rouge-score: its own splitting and stemming for ASCII, but every script has words."""

    def tokenize(self, text: str) -> list[str]:
        return [_stem(word) if len(word) > 3 and word.isascii() else word for word in words(text)]


@lru_cache(_CACHED_STEMS)
def _stem(word: str) -> str:
    return str(_stemmer().stem(word))


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer  # rouge-score's own

    return PorterStemmer()


@lru_cache(10_000)
def _is_mark(letter: str) -> bool:
    """Punctuation of any script, and those of ASCII's symbols that Python counts as such."""
    return unicodedata.category(letter)[0] == "P" or letter in "$+<=>^`|~"
