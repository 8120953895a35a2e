"""Texts with a few words changed: more ways of saying what a training row says.

Only the input is changed, of a conversation what the user says; labels and answers stay. So that they stay
true as well, no word that stands in the answer is deleted, moved or exchanged; only translation may find
other words for it.

| method | does |
|---|---|
| insertion | puts synonyms (without a list of them, copies) of random words in random places |
| deletion | deletes random words |
| swap | exchanges the places of random words |
| synonyms | exchanges random words for synonyms from the list |
| back_translation | translates into another language and back (`sweeper.data.translate`) |

The first four are those of Wei and Zou, "EDA: Easy Data Augmentation Techniques" (arXiv 1901.11196); the
share of words that they recommend is 0.05 to 0.1. A word is what stands between blanks: a text in a script
without blanks is changed by translation, and by hardly anything else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sweeper.config import AugmentConfig
from sweeper.data import translate
from sweeper.data.synonyms import digest as synonyms_digest
from sweeper.data.synonyms import read_synonyms
from sweeper.data.texts import ANSWER, Form, Text
from sweeper.data.words import Changes, bare_words

_TRANSLATION = "back_translation"


@dataclass(frozen=True)
class Copy:
    """An augmented copy of a row."""

    original: str
    """Id of the row that it was made from."""
    number: int
    """Among the copies of this row, from 0."""
    method: str
    text: Text


class Augmenter:
    """Makes up to `config.copies` copies of each row; the same ones for the same seed, row and options."""

    def __init__(self, config: AugmentConfig, form: Form, seed: int) -> None:
        """Raises DataError if synonyms or models can't be read."""
        self._methods = config.methods
        self._copies = config.copies
        self._form = form
        self._seed = seed
        synonyms = read_synonyms(config.synonyms) if config.synonyms else {}
        self._changes = Changes(config.share_of_words, synonyms)
        self._translator = (
            translate.BackTranslator(config.back_translation) if _TRANSLATION in config.methods else None
        )

    def copies(self, rows: Sequence[tuple[str, Text]]) -> Iterator[Copy]:
        """Copies of these rows, given with their ids; fewer where no method finds anything to change.

        The methods take turns, in an order drawn for each row. Where one changes nothing, the next is tried,
        but for translation, which costs too much: it is done for all rows together when it is its turn.
        """
        draws = [Random(f"{self._seed} {id_}") for id_, _ in rows]  # noqa: S311 - no secrets
        orders = [rng.sample(self._methods, len(self._methods)) for rng in draws]
        translated = self._translated(rows, orders)
        for number, (id_, row) in enumerate(rows):
            known = {row.input}
            for copy in range(self._copies):
                turn = copy % len(self._methods)
                for method in orders[number][turn:] + orders[number][:turn]:
                    if method == _TRANSLATION:
                        text = translated.get(number, row)
                    else:
                        text = self._changed(row, method, draws[number])
                    if text.input not in known:
                        known.add(text.input)
                        yield Copy(id_, copy, method, text)
                        break

    def _translated(
        self, rows: Sequence[tuple[str, Text]], orders: Sequence[Sequence[str]]
    ) -> dict[int, Text]:
        """By number, the rows for which it is the turn of translation."""
        if self._translator is None:
            return {}
        numbers = [n for n, order in enumerate(orders) if _TRANSLATION in order[: self._copies]]
        fields = {number: self._inputs(rows[number][1]) for number in numbers}
        texts = iter(self._translator.translate([text for number in numbers for text in fields[number]]))
        return {n: self._rebuilt(rows[n][1], [next(texts) for _ in fields[n]]) for n in numbers}

    def _changed(self, row: Text, method: str, rng: Random) -> Text:
        said = [text for who, text in self._form.split(row) if who in (ANSWER, "assistant")]
        kept = bare_words("\n".join(said or [row.target]))
        return self._rebuilt(row, [self._changes.apply(method, t, kept, rng) for t in self._inputs(row)])

    def _inputs(self, row: Text) -> list[str]:
        """The texts of a row that may be changed."""
        return [text for who, text in self._form.split(row) if self._is_input(who)]

    def _rebuilt(self, row: Text, inputs: Sequence[str]) -> Text:
        changed = iter(inputs)
        split = self._form.split(row)
        return self._form.join(row, [next(changed) if self._is_input(who) else text for who, text in split])

    def _is_input(self, who: str) -> bool:
        return who == "user" if self._form.kind == "chat" else who != ANSWER


def defining(config: AugmentConfig) -> Mapping[str, Any]:
    """What the copies follow from, as a plain tree; files count by their content.

    Raises DataError if synonyms or models can't be read.
    """
    if not config.methods:
        return {}
    uses_models = _TRANSLATION in config.methods
    return {
        "methods": list(config.methods),
        "copies": config.copies,
        "share_of_words": config.share_of_words,
        "synonyms": synonyms_digest(config.synonyms) if config.synonyms else None,
        "models": translate.revisions(config.back_translation) if uses_models else None,
    }
