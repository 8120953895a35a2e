"""Personal data by Presidio's recognizers: identity numbers, and with a spaCy model names and places.

What `sweeper.data.personal` finds already is not told twice. Presidio and spaCy are an extra.
"""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.config.types import expanded
from sweeper.data.checks.tally import Sample, Tally
from sweeper.data.findings import Batch, Finding
from sweeper.data.personal import Span, find, mask, masked_part
from sweeper.errors import DataError, first_line, installing

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

SAMPLED = 5000
"""Rows that are looked at, about 3 ms each without a model; all, where there are no more."""

_CHARACTERS = 1000
"""Looked at of each text."""

_SURE = 0.5
"""Score from which on an entity is believed; a mere number without a word that explains it has less."""

_LEFT_OUT = {
    *("EMAIL", "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS"),  # we find these
    *("DATE_TIME", "URL", "UUID", "ID", "AGE", "ORGANIZATION"),  # belong to nobody
}
"""E-mail and URL would fetch a list of top-level domains from the network besides."""


class Entities:
    """Counts rows of a sample with personal data that Presidio recognises in English text."""

    def __init__(self, spacy: Path | None, seed: int) -> None:
        """`spacy` is the folder of a spaCy model that knows names; without one, patterns alone count.

        Raises DataError if Presidio is not installed, or the folder holds no model.
        """
        self._analyzer = _analyzer(spacy)
        self._names = spacy is not None
        self._entities = sorted(set(self._analyzer.get_supported_entities("en")) - _LEFT_OUT)
        self._sample = Sample(SAMPLED, seed, _CHARACTERS)

    def see(self, batch: Batch) -> None:
        self._sample.see(batch)

    def findings(self) -> Sequence[Finding]:
        """One for every kind of entity that occurs."""
        rows = self._sample.rows
        tallies: dict[str, Tally] = {}
        occurrences: Counter[str] = Counter()
        for row, split, *texts in rows:
            found = [self._found(text) for text in texts]
            occurrences.update(span.kind for spans in found for span in spans)
            for kind in {span.kind: None for spans in found for span in spans}:
                place = next(n for n, spans in enumerate(found) if any(span.kind == kind for span in spans))
                shown = _around(texts[place], found[place], kind)
                tallies.setdefault(kind, Tally()).add(row, split, shown)
        return [self._finding(kind, tallies[kind], occurrences[kind], len(rows)) for kind in sorted(tallies)]

    def mask(self, text: str) -> str:
        """`text` with its kind in brackets in the place of each entity."""
        parts, done = [], 0
        for span in self._found(text):
            parts += [text[done : span.start], f"[{span.kind}]"]
            done = span.end
        return "".join(parts) + text[done:]

    def _found(self, text: str) -> list[Span]:
        """In order, without overlaps; of several at one place the surest."""
        if not text.strip():
            return []
        told = self._analyzer.analyze(text, "en", entities=self._entities, score_threshold=_SURE)
        taken = [(span.start, span.end) for span in find(text)]
        spans = []
        for one in sorted(told, key=lambda one: (-one.score, one.start, one.entity_type)):
            if all(one.end <= start or one.start >= end for start, end in taken):
                taken.append((one.start, one.end))
                spans.append(Span(one.start, one.end, one.entity_type.lower()))
        return sorted(spans, key=lambda span: span.start)

    def _finding(self, kind: str, tally: Tally, occurrences: int, of: int) -> Finding:
        advice = (
            "Look at them: remove or replace what identifies a person, or make sure that you may train on it."
        )
        if not self._names:
            advice += (
                " Names of persons and places are looked for with a spaCy model: data.audit.spacy=FOLDER."
            )
        return Finding(
            "presidio",
            "warning",
            f"{tally.count:,} of {of:,} sampled rows contain {kind} ({occurrences:,} occurrences)",
            advice,
            tally.count,
            of,
            tally.examples,
            tally.suspects,
            {f"{kind} occurrences": float(occurrences)},
        )


def _around(text: str, spans: Sequence[Span], kind: str) -> str:
    """The text around the first entity of this kind, all entities masked."""
    parts, done, first = [], 0, 0
    for span in spans:
        parts += [mask(text[done : span.start]), f"[{span.kind}]"]
        first = first or (len("".join(parts)) if span.kind == kind else 0)
        done = span.end
    masked = "".join(parts) + masked_part(text, done, done + 200)
    return masked[max(0, first - 60) : first + 100]


@functools.cache
def _analyzer(spacy: Path | None) -> "AnalyzerEngine":
    """Presidio over a spaCy model, or over one that only cuts text into words; nothing is downloaded."""
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
    except ImportError as error:
        raise DataError(
            f"data.audit.presidio: Presidio is not installed; install it {installing('presidio')}, or "
            "set data.audit.presidio=false"
        ) from error
    # Says of every recognizer of another language that it is left out.
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    engine = SpacyNlpEngine()
    engine.nlp = {"en": _language(spacy)}  # would otherwise load, and fetch, a model by its name
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def _language(folder: Path | None) -> Any:
    import spacy

    if folder is None:
        return spacy.blank("en")
    path = expanded(folder)
    if not (path / "config.cfg").is_file():
        raise DataError(
            f"data.audit.spacy: {folder} is no folder of a spaCy model, it has no config.cfg. "
            "`python -m spacy download en_core_web_sm` installs one: its folder is "
            "en_core_web_sm/en_core_web_sm-VERSION among the installed packages. Without a model: "
            "data.audit.spacy=null"
        )
    try:
        return spacy.load(path)
    except (OSError, ValueError, KeyError) as error:
        version = spacy.about.__version__
        raise DataError(
            f"data.audit.spacy: {folder} can't be loaded ({first_line(error)}); take a model for spaCy "
            f"{version}"
        ) from error
