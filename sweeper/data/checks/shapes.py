"""Checks of a column as a whole: one format for one thing, and no lengths far from all the others."""

import heapq
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from sweeper.data.checks.quality import Kind
from sweeper.data.checks.tally import Tally
from sweeper.data.findings import MOST_EXAMPLES, Batch, Example, Finding
from sweeper.data.personal import masked_part

_SHORT = 40
"""Characters up to which a text is a value rather than prose."""
_FEW_WORDS = 3
"""Of an answer that is compared by casing: in sentences, `Inputs` and `inputs` are names of things."""

_EITHER = "1/2/2024"

_DATES: Mapping[str, re.Pattern[str]] = {
    "2024-12-31": re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+(?:Z|[+-][\d:]+)?)?"),
    "2024/12/31": re.compile(r"\d{4}/\d{1,2}/\d{1,2}"),
    "31.12.2024": re.compile(r"\d{1,2}\.\d{1,2}\.\d{2,4}"),
    "31-12-2024": re.compile(r"\d{1,2}-\d{1,2}-\d{4}"),
    "31/12/2024": re.compile(r"(?:1[3-9]|2\d|3[01])/\d{1,2}/\d{2,4}"),
    "12/31/2024": re.compile(r"\d{1,2}/(?:1[3-9]|2\d|3[01])/\d{2,4}"),
    _EITHER: re.compile(r"\d{1,2}/\d{1,2}/\d{2,4}"),
    "31 December 2024": re.compile(r"\d{1,2}\.? [^\W\d_]{3,12}\.? \d{4}"),
    "December 31, 2024": re.compile(r"[^\W\d_]{3,12}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4}"),
}
_SLASHES = ("31/12/2024", "12/31/2024")
"""What `1/2/2024` may be; it belongs to whichever there is."""

# Three digits after one comma or point may be thousands or decimals: they speak for neither.
_DECIMALS: Mapping[str, re.Pattern[str]] = {
    "1.5": re.compile(r"[+-]?(?:\d+\.(?:\d{1,2}|\d{4,})|0\.\d+|\d{1,3}(?:,\d{3})+\.\d+)"),
    "1,5": re.compile(r"[+-]?(?:\d+,(?:\d{1,2}|\d{4,})|0,\d+|\d{1,3}(?:\.\d{3})+,\d+)"),
}
_UNITS = " %€$£¥"

_MOST_VALUES = 5000


class Formats:
    """Short values of one field that write dates, decimals or the same word in several ways.

    Dates within prose vary as prose does and are not looked at. Casing is compared among equal answers;
    that of labels is a matter of `labels.Spellings`.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._rows = 0
        self._tallies: dict[tuple[str, str], dict[str, Tally]] = {}
        self._values: dict[str, dict[str, Tally]] = {}

    def see(self, batch: Batch) -> None:
        self._rows += len(batch.ids)
        for field, texts in (("input", batch.inputs), ("answer", batch.targets)):
            for place, text in enumerate(texts):
                if len(text) > _SHORT or not (value := text.strip()):
                    continue
                row, split = batch.ids[place], batch.splits[place]
                if found := _format(value):
                    thing, form = found
                    forms = self._tallies.setdefault((field, thing), {})
                    forms.setdefault(form, Tally(MOST_EXAMPLES)).add(row, split, text)
                elif field == "answer" and self._kind == "generate" and len(value.split()) <= _FEW_WORDS:
                    self._see_casing(value, row, split)

    def _see_casing(self, value: str, row: str, split: str) -> None:
        key = value.casefold()
        if key in self._values or len(self._values) < _MOST_VALUES:
            self._values.setdefault(key, {}).setdefault(value, Tally(1)).add(row, split, value)

    def findings(self) -> Sequence[Finding]:
        found = [
            finding
            for (field, thing), forms in self._tallies.items()
            if (finding := self._mixed(field, thing, forms))
        ]
        cased = [forms for forms in self._values.values() if len(forms) > 1]
        if cased:
            rest = [tally for forms in cased for tally in _but_the_commonest(forms)]
            forms = ", ".join(f"`{form}` ({tally.count:,})" for form, tally in sorted(cased[0].items()))
            found.append(
                self._finding(
                    "casing",
                    f"{len(cased):,} short answers are written with several casings, e.g. {forms}",
                    rest,
                )
            )
        return found

    def _mixed(self, field: str, thing: str, forms: dict[str, Tally]) -> Finding | None:
        sure = [form for form in _SLASHES if form in forms]
        counted = dict(forms)
        if sure and _EITHER in counted:
            either = counted.pop(_EITHER)
            if len(counted) > 1 and max(counted, key=lambda form: counted[form].count) not in sure:
                counted[_EITHER] = either
        if len(counted) < 2:
            return None
        said = ", ".join(
            f"{tally.count:,} as {form}"
            for form, tally in sorted(counted.items(), key=lambda item: -item[1].count)
        )
        return self._finding(
            f"{thing}s",
            f"{thing}s of the {field} come in several formats: {said}",
            _but_the_commonest(counted),
        )

    def _finding(self, what: str, said: str, rest: Sequence[Tally]) -> Finding:
        count = sum(tally.count for tally in rest)
        examples: tuple[Example, ...] = tuple(example for tally in rest for example in tally.examples)
        suspects = tuple((example.row, 0.3) for example in examples)
        return Finding(
            "mixed formats",
            "warning",
            said,
            "Write all in one format, or the model learns to guess.",
            count,
            self._rows,
            examples[:MOST_EXAMPLES],
            suspects,
            {f"{what} off the commonest format": float(count)},
        )


class LengthOutliers:
    """Texts that are far shorter or longer than the others of their field.

    The logarithm of the length is compared with its median in units of the median absolute deviation,
    1.4826 times which is a standard deviation of normal data (Leys et al., J. Exp. Soc. Psych. 49, 2013).
    """

    _DEVIATIONS = 4.0
    _RATIO = 4.0
    """Lengths within this factor of the median are never far from it."""
    _FEWEST = 30
    _KEPT = 100
    """Candidates at either end."""

    def __init__(self, kind: Kind) -> None:
        self._fields = ("input", "answer") if kind == "generate" else ("input",)
        self._lengths = {field: array("f") for field in self._fields}
        self._long = {field: Tally(self._KEPT) for field in self._fields}
        self._short = {field: Tally(self._KEPT) for field in self._fields}
        self._rows = 0

    def see(self, batch: Batch) -> None:
        self._rows += len(batch.ids)
        for field in self._fields:
            texts = batch.inputs if field == "input" else batch.targets
            lengths = list(map(len, texts))
            self._lengths[field].extend(length for length in lengths if length)
            longest = heapq.nlargest(self._KEPT, range(len(lengths)), key=lengths.__getitem__)
            shortest = heapq.nsmallest(
                self._KEPT, (place for place, length in enumerate(lengths) if length), key=lengths.__getitem__
            )
            for tally, places, sign in ((self._long, longest, 1), (self._short, shortest, -1)):
                for place in places:
                    seen = f"{lengths[place]:,} characters: {masked_part(texts[place], 0, 200)}"
                    tally[field].add(batch.ids[place], batch.splits[place], seen, sign * lengths[place])

    def findings(self) -> Sequence[Finding]:
        found = []
        for field in self._fields:
            if len(self._lengths[field]) < self._FEWEST:
                continue
            logs = np.log(np.frombuffer(self._lengths[field], dtype=np.float32))
            median = float(np.median(logs))
            spread = 1.4826 * float(np.median(np.abs(logs - median)))
            reach = max(self._DEVIATIONS * spread, np.log(self._RATIO))
            for end, tally, far in (
                ("long", self._long[field], logs > median + reach),
                ("short", self._short[field], logs < median - reach),
            ):
                if count := int(far.sum()):
                    found.append(self._finding(field, end, tally, count, median, reach))
        return found

    def _finding(
        self, field: str, end: str, tally: Tally, count: int, median: float, reach: float
    ) -> Finding:
        bound = round(np.exp(median + reach if end == "long" else median - reach))
        said = (
            f"{count:,} of the {field}s are unusually {end}: {'over' if end == 'long' else 'under'} "
            f"{bound:,} characters, where the median is {round(np.exp(median)):,}"
        )
        suspects = [(row, 0.5) for row, _ in tally.suspects[:count]]
        return Finding(
            "length outliers",
            "warning",
            said,
            "Look at them: pages run together, or cut off?",
            count,
            self._rows,
            tally.examples[:count],
            tuple(suspects),
            {f"median {field} length": float(np.exp(median)), f"{end} {field} bound": float(bound)},
            ("length",),
        )


def _format(value: str) -> tuple[str, str] | None:
    if not any(map(str.isdigit, value)):
        return None
    bare = value.strip(_UNITS)
    for thing, forms in (("date", _DATES), ("decimal", _DECIMALS)):
        for form, pattern in forms.items():
            if pattern.fullmatch(bare):
                return thing, form
    return None


def _but_the_commonest(forms: Mapping[str, Tally]) -> list[Tally]:
    counts = Counter({form: tally.count for form, tally in forms.items()})
    commonest = counts.most_common(1)[0][0]
    return [tally for form, tally in forms.items() if form != commonest]
