"""Checks of single texts: nothing there, broken encoding, control characters, left-overs of HTML."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from sweeper.data.cells import is_placeholder
from sweeper.data.checks.tally import Tally
from sweeper.data.findings import Batch, Finding, Severity
from sweeper.data.personal import masked_part

Kind = Literal["generate", "classify", "chat"]
"""task.kind"""

_MANY = 0.1
"""From this share of rows on, what is wrong with a few rows is wrong with the data."""

_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"


class Empty:
    """Inputs and answers that are empty, invisible or a placeholder like `null`; labels may be any word."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._rows = 0
        self._tally = Tally()
        self._kinds: Counter[str] = Counter()

    def see(self, batch: Batch) -> None:
        self._rows += len(batch.ids)
        for row, split, text, target in zip(
            batch.ids, batch.splits, batch.inputs, batch.targets, strict=True
        ):
            missing = self._missing(text, target)
            if missing:
                self._kinds[missing] += 1
                self._tally.add(row, split, f"{missing}: {text or target}", 0.9)

    def _missing(self, text: str, target: str) -> str:
        if _blank(text):
            return "no input"
        if self._kind != "chat" and _blank(target):
            return "no answer"
        if is_placeholder(text, is_input=self._kind != "chat"):
            return "placeholder as input"
        if self._kind == "generate" and is_placeholder(target, is_input=False):
            return "placeholder as answer"
        return ""

    def findings(self) -> Sequence[Finding]:
        gaps = sum(self._kinds[kind] for kind in _GAPS)
        # Gaps are left out of every split, and told; many of them mean that a column is the wrong one.
        severity: Severity = "error" if 2 * gaps >= self._rows else "warning"
        placeholders = self._tally.count - gaps
        if placeholders and _severity(placeholders, self._rows) == "error":
            severity = "error"
        return _finding(
            "empty",
            self._tally,
            self._rows,
            f"{_rows(self._tally.count)} nothing to learn from: {_counted(self._kinds)}",
            "Rows without input or answer are left out; fill them from the source.",
            severity,
            self._kinds,
            ("missing",) if placeholders else (),
        )


_GAPS = ("no input", "no answer")


class _Scan(ABC):
    """Looks for one family of faults in the input and the answer of every row."""

    check: ClassVar[str]
    said: ClassVar[str]
    advice: ClassVar[str]
    ways: ClassVar[tuple[str, ...]] = ()
    score: ClassVar[float]

    def __init__(self) -> None:
        self._rows = 0
        self._tally = Tally()
        self._kinds: Counter[str] = Counter()

    @abstractmethod
    def fault(self, text: str) -> tuple[str, int] | None:
        """The kind of the first fault and its place in `text`."""

    def severity(self) -> Severity:
        return "warning"

    def see(self, batch: Batch) -> None:
        self._rows += len(batch.ids)
        for field, texts in (("input", batch.inputs), ("answer", batch.targets)):
            for place, text in enumerate(texts):
                fault = self.fault(text)
                if fault is None:
                    continue
                if field == "answer" and self.fault(batch.inputs[place]):
                    continue  # counted by its input
                kind, start = fault
                self._kinds[kind] += 1
                seen = f"{field}: {masked_part(text, start - 60, start + 100)}"
                self._tally.add(batch.ids[place], batch.splits[place], seen, self.score)

    def findings(self) -> Sequence[Finding]:
        message = f"{_rows(self._tally.count)} {self.said}: {_counted(self._kinds)}"
        return _finding(
            *(self.check, self._tally, self._rows, message, self.advice),
            *(self.severity(), self._kinds, self.ways),
        )


class Encoding(_Scan):
    """Text that was decoded wrongly: mojibake, replacement characters, halves of surrogate pairs.

    Mojibake is what ftfy both finds badly decoded and can repair around the place (R. Speer, 2019,
    doi:10.5281/zenodo.2591652); text in any script that is well decoded stays as it is.
    """

    check = "encoding"
    said = "broken encoding"
    advice = "Read the source again for lost characters."
    ways = ("encoding",)
    score = 0.7

    def severity(self) -> Severity:
        return _severity(self._tally.count, self._rows)

    def fault(self, text: str) -> tuple[str, int] | None:
        if text.isascii():
            return None
        if (place := text.find("\ufffd")) >= 0:
            return "replacement character", place
        if found := _SURROGATE.search(text):
            return "lone surrogate", found.start()
        place = _mojibake(text)
        return ("mojibake", place) if place >= 0 else None


class Controls(_Scan):
    """Control characters and invisible format characters that no keyboard types.

    Joiners (emoji, Persian), direction marks and, in scripts without spaces, zero-width spaces are text.
    """

    check = "control characters"
    said = "control or invisible characters"
    advice = "Find out which program wrote them."
    ways = ("invisible",)
    score = 0.4

    def fault(self, text: str) -> tuple[str, int] | None:
        if found := _CONTROL.search(text):
            return "control character", found.start()
        if text.isascii() or not (found := _FORMAT.search(text)):
            return None
        if found[0] == "\u200b" and _SPACELESS.search(text):
            return None
        return "invisible character", found.start()


class Markup(_Scan):
    """Tags and entities of HTML; where most rows have them they are taken to be meant."""

    check = "html"
    said = "left-overs of HTML"
    advice = "Convert to plain text before training, unless the model is to read or write HTML."
    score = 0.4

    def severity(self) -> Severity:
        return "note" if self._tally.count > 0.5 * self._rows else "warning"

    def fault(self, text: str) -> tuple[str, int] | None:
        if "<" in text and (found := _TAG.search(text)):
            return "tag", found.start()
        if "&" in text and (found := _ENTITY.search(text)):
            return "entity", found.start()
        return None


_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_FORMAT = re.compile("[\u200b\u2060\ufeff\u202d\u202e\ufff9-\ufffb]")
_SPACELESS = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")

_PAIRED = (
    "p|div|span|a|b|i|u|em|strong|ul|ol|li|table|tr|td|th|tbody|thead|h[1-6]|font|script|style|body|html|head"
    "|iframe|section|article|blockquote|center|small|button|form|sup|sub"
)
# A lone <name> may be a placeholder or a type, as in `List<a>`: it takes a closing tag, an attribute, or a
# name that is nothing else. That is meant where it stands among words like one of them: `all <td> cells`.
_TAG = re.compile(
    rf"</(?:{_PAIRED})>|<(?:{_PAIRED})\s{{1,9}}[a-z-]{{1,30}}\s?=\s?[\"']"
    r"|<[bh]r\s?/?>|(?:^|(?<=[^\s\"'`(\[{]))<(?:div|span|li|ul|ol|td|tr|p)\s?/?>"
    r"|<(?:div|span|li|ul|ol|td|tr|p)\s?/?>(?=<|\w\w)|<!--|<!doctype html",
    re.IGNORECASE | re.MULTILINE,
)
_ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|copy|reg|hellip|mdash|ndash|[lr][sd]quo|[a-z]uml|[a-z]acute|[a-z]grave"
    r"|#\d{2,6}|#x[0-9a-f]{2,5});",
    re.IGNORECASE,
)


def _mojibake(text: str) -> int:
    """Where `text` is mojibake, -1 if it is none."""
    from ftfy import fix_encoding
    from ftfy.badness import BADNESS_RE

    for tried, found in enumerate(BADNESS_RE.finditer(text)):
        # Repair looks at the surroundings only: a page-long text costs ftfy seconds.
        near = text[max(0, found.start() - 100) : found.end() + 100]
        if fix_encoding(near) != near:
            return found.start()
        if tried >= 20:
            break
    return -1


def _blank(text: str) -> bool:
    """No character of `text` can be seen; long texts are not looked through."""
    return not text.strip() or (len(text) <= 1000 and not text.strip(_INVISIBLE + " \t\r\n\u00a0"))


def _severity(count: int, of: int) -> Severity:
    return "error" if count > max(1, _MANY * of) else "warning"


def _rows(count: int) -> str:
    return f"{count:,} row has" if count == 1 else f"{count:,} rows have"


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def _finding(
    check: str,
    tally: Tally,
    of: int,
    message: str,
    advice: str,
    severity: Severity,
    numbers: Mapping[str, int],
    ways: tuple[str, ...] = (),
) -> Sequence[Finding]:
    if not tally.count:
        return ()
    measured = {name: float(value) for name, value in numbers.items()}
    told = (message, advice, tally.count, of, tally.examples, tally.suspects, measured, ways)
    return (Finding(check, severity, *told),)
