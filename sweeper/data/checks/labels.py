"""Checks of labels, for task.kind=classify: how many there are of each, and several spellings of one."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sweeper.data.checks.tally import Tally
from sweeper.data.findings import MOST_EXAMPLES, Batch, Example, Finding, Severity, excerpt, printable
from sweeper.data.personal import masked_part

FREE_TEXT = 1000
"""So many different labels are no classes (as `pool.gather` has it)."""

_COUNTED = 10_000
"""Different labels that are counted; of more, only that there are more."""


class Balance:
    """Rows per class: rare classes, one that drowns the others, classes that training lacks, no classes."""

    _RARE = 10
    """Training rows below which a class is hardly learned, and none may be left for validation and test."""
    _DROWNING = 0.8
    """With such a share of rows, always saying this class looks good by accuracy."""
    _UNEVEN = 10

    def __init__(self) -> None:
        self._rows = 0
        self._counts: dict[str, Counter[str]] = {}
        self._firsts: dict[str, Example] = {}

    def see(self, batch: Batch) -> None:
        self._rows += len(batch.ids)
        for place, label in enumerate(map(str.strip, batch.targets)):
            if not label:
                continue
            if label not in self._firsts:
                if len(self._firsts) == _COUNTED:
                    continue
                seen = printable(excerpt(f"{label[:40]}: {masked_part(batch.inputs[place], 0, 200)}"))
                self._firsts[label] = Example(batch.ids[place], batch.splits[place], seen)
            self._counts.setdefault(batch.splits[place], Counter())[label] += 1

    def findings(self) -> Sequence[Finding]:
        """Labels without training rows, rare ones, and one that drowns the others."""
        total = sum(self._counts.values(), Counter[str]())
        train = self._counts.get("train", total)
        if not total:
            return ()
        if len(total) == 1 or len(total) > min(FREE_TEXT, max(2, total.total() // 2)):
            return (self._no_classes(total),)
        found = []
        if absent := [label for label in total if not train[label]]:
            found.append(
                self._finding(
                    "labels without training rows",
                    "error",
                    f"{len(absent):,} labels have rows in validation or test, but none in training: "
                    f"{_named(absent)}",
                    "These rows can't be learned: split anew, or drop them.",
                    {label: total[label] for label in absent},
                    ("stratify",),
                )
            )
        if rare := {label: count for label, count in train.items() if count < self._RARE}:
            found.append(
                self._finding(
                    "rare labels",
                    "warning",
                    f"{len(rare):,} of {len(total):,} labels have fewer than {self._RARE} training rows: "
                    f"{_named(sorted(rare, key=lambda label: rare[label]))}",
                    "Collect more of them, merge them into other classes, or drop them.",
                    rare,
                )
            )
        label, most = train.most_common(1)[0]
        least = min(train.values())
        if most >= self._DROWNING * train.total() or most > self._UNEVEN * least:
            drowning = most >= self._DROWNING * train.total()
            found.append(
                self._finding(
                    "label balance",
                    "warning" if drowning else "note",
                    f"{_named([label])} is the label of {most / train.total():.0%} of the training rows, "
                    f"{most / least:,.0f} times as many as the rarest label has",
                    "A score that counts rows says little of the rare labels.",
                    {label: most},
                    ("macro_f1",),
                )
            )
        return found

    def _no_classes(self, total: Counter[str]) -> Finding:
        if len(total) == 1:
            said = f"All rows have the same label, {_named(total)}"
            advice = "Two classes are needed; is data.target the right column?"
        else:
            many = f"over {_COUNTED:,}" if len(self._firsts) == _COUNTED else f"{len(total):,}"
            said = f"The label column has {many} different values in {self._rows:,} rows: no classes"
            advice = "Name a column of labels in data.target, or set task.kind=generate."
        return self._finding("labels", "error", said, advice, dict(total))

    def _finding(
        self,
        check: str,
        severity: Severity,
        said: str,
        advice: str,
        counts: Mapping[str, int],
        ways: tuple[str, ...] = (),
    ) -> Finding:
        examples = tuple(self._firsts[label] for label in sorted(counts, key=lambda label: counts[label]))
        numbers = {f"rows of {printable(label[:40])}": float(count) for label, count in counts.items()}
        return Finding(
            check,
            severity,
            said,
            advice,
            sum(counts.values()),
            self._rows,
            examples[:MOST_EXAMPLES],
            (),
            dict(list(numbers.items())[:50]),
            ways,
        )


class Spellings:
    """One label written in several ways: by case, blanks and width of characters, or by a typing error.

    A typing error is a rare label one edit (from eight characters on, two) from a frequent one, where no
    digit differs; edits are those of Damerau (CACM 7, 1964).
    """

    _RARE = 0.05
    """A typing error has at most this many times the rows of what was meant."""
    _SHORTEST = 5
    _SHORTEST_FOR_TWO = 8

    def __init__(self) -> None:
        self._rows = 0
        self._labels: dict[str, Tally] = {}

    def see(self, batch: Batch) -> None:
        self._rows += len(batch.ids)
        for place, label in enumerate(map(str.strip, batch.targets)):  # blanks around a label are cut off
            tally = self._labels.get(label)
            if tally is None:
                if not label or len(self._labels) > FREE_TEXT:
                    continue
                tally = self._labels[label] = Tally(20)
            seen = f"{label!r}: {masked_part(batch.inputs[place], 0, 200)}"
            tally.add(batch.ids[place], batch.splits[place], seen, 0.8)

    def findings(self) -> Sequence[Finding]:
        """One finding for forms of the same label, one for probable typing errors."""
        if len(self._labels) > FREE_TEXT:
            return ()
        forms: dict[str, list[str]] = {}
        for label in self._labels:
            forms.setdefault(_normalised(label), []).append(label)
        for same in forms.values():
            same.sort(key=lambda label: -self._labels[label].count)
        found = []
        if several := [same for same in forms.values() if len(same) > 1]:
            found.append(self._finding("error", "the same but for case, blanks or signs", several))
        if typed := self._typing_errors([same[0] for same in forms.values()]):
            found.append(self._finding("warning", "probably typing errors", typed))
        return found

    def _typing_errors(self, labels: Sequence[str]) -> list[list[str]]:
        """Pairs of the frequent label and the rare one close to it."""
        from rapidfuzz.distance import OSA

        pairs = []
        by_count = sorted(labels, key=lambda label: -self._labels[label].count)
        for rare in by_count:
            if len(rare) < self._SHORTEST:
                continue
            edits = 2 if len(rare) >= self._SHORTEST_FOR_TWO else 1
            bound = self._labels[rare].count / self._RARE
            for frequent in by_count:
                if self._labels[frequent].count < bound:
                    break
                if OSA.distance(rare, frequent, score_cutoff=edits) <= edits and _digits(rare) == _digits(
                    frequent
                ):
                    pairs.append([frequent, rare])
                    break
        return pairs

    def _finding(self, severity: Severity, why: str, several: Sequence[Sequence[str]]) -> Finding:
        rest = [self._labels[label] for same in several for label in same[1:]]
        shown = "; ".join(
            " / ".join(f"{printable(label[:40])!r} ({self._labels[label].count:,})" for label in same)
            for same in several[:5]
        )
        return Finding(
            "spellings of labels",
            severity,
            f"{len(several):,} labels come in several spellings, {why}: {shown}",
            "Write each label in one way: the model learns every spelling as a class of its own.",
            sum(tally.count for tally in rest),
            self._rows,
            tuple(example for tally in rest for example in tally.examples[:1])[:MOST_EXAMPLES],
            tuple(suspect for tally in rest for suspect in tally.suspects)[:200],
            {"labels in several spellings": float(len(several))},
        )


def _normalised(label: str) -> str:
    """Signs such as + and # are kept: C, C++ and C# differ."""
    plain = unicodedata.normalize("NFKC", label).casefold()
    return re.sub(r"[\s_.:;!\"'\u2019-]+", " ", plain).strip() or label


def _digits(label: str) -> str:
    return "".join(filter(str.isdigit, label))


def _named(labels: Iterable[str], most: int = 5) -> str:
    every = [repr(printable(excerpt(label, 40))) for label in labels]
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")
