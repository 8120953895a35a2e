"""Check of groups: how many rows there are of each, and whether labels or answers differ between them."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from sweeper.data.checks.quality import Kind
from sweeper.data.findings import Batch, Finding

Interval = tuple[float, float]

_MISTAKE = 0.05
"""Probability that any gap at all is told where there is none, shared among all comparisons (Bonferroni)."""


def wilson(count: int, of: int, mistake: float = _MISTAKE) -> Interval:
    """Interval of a rate (Wilson, JASA 22, 1927) that misses it with probability `mistake`."""
    z = NormalDist().inv_cdf(1 - mistake / 2)
    rate, square = count / of, z * z / of
    middle = rate + square / 2
    reach = z * math.sqrt(rate * (1 - rate) / of + square / (4 * of))
    return max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square))


def rate_gap(count: int, of: int, other: int, other_of: int, mistake: float = _MISTAKE) -> Interval:
    """Interval of the difference of two rates (Newcombe, Statistics in Medicine 17, 1998, method 10)."""
    a, b = count / of, other / other_of
    (low_a, high_a), (low_b, high_b) = wilson(count, of, mistake), wilson(other, other_of, mistake)
    gap = a - b
    return gap - math.hypot(a - low_a, high_b - b), gap + math.hypot(high_a - a, b - low_b)


@dataclass
class Moments:
    """Count, sum and sum of squares of numbers."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.squares += value * value

    def without(self, part: "Moments") -> "Moments":
        return Moments(self.count - part.count, self.total - part.total, self.squares - part.squares)

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def squared_error(self) -> float:
        """Of the mean."""
        variance = max(0.0, self.squares - self.total * self.mean) / (self.count - 1)
        return variance / self.count


def mean_gap(one: Moments, other: Moments, mistake: float = _MISTAKE) -> Interval:
    """Interval of the difference of two means of unequal variance (Welch, Biometrika 34, 1947)."""
    from scipy.stats import t

    gap, a, b = one.mean - other.mean, one.squared_error, other.squared_error
    if a + b == 0:
        return gap, gap
    freedom = (a + b) ** 2 / (a * a / (one.count - 1) + b * b / (other.count - 1))
    reach = float(t.ppf(1 - mistake / 2, freedom)) * math.sqrt(a + b)
    return gap - reach, gap + reach


@dataclass
class _Group:
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    lengths: Moments = field(default_factory=Moments)
    """Logarithms of characters of the answer."""


class Bias:
    """Compares each group with the other rows: values of a column, or rows that speak of a list of terms.

    A gap is told if its interval leaves out zero and it is large enough to matter: 10 points of a label's
    rate, a factor of 1.25 between answer lengths (geometric means), a fifth of the rows that an even share
    would be. Groups of under 30 rows are only counted.
    """

    _FEWEST = 30
    _MOST_GROUPS = 50
    """A column with more values names no groups; the largest are compared."""
    _MOST_LABELS = 50
    _KEPT_GROUPS = 10_000
    _RATE = 0.1
    _RATIO = 1.25
    _UNDER = 0.2

    def __init__(self, kind: Kind, terms: Mapping[str, Sequence[str]]) -> None:
        """`terms` names groups and gives the words that speak of them, e.g. {"women": ["she", "her"]}."""
        self._kind = kind
        self._terms = {name: _pattern(words) for name, words in terms.items() if words}
        self._all = _Group()
        self._column: dict[str, _Group] = {}
        self._listed: dict[str, _Group] = {name: _Group() for name in self._terms}
        self._differ = False
        """Some row's group is not its label: else the rate of labels in groups says nothing."""

    def see(self, batch: Batch) -> None:
        for text, target, value in zip(batch.inputs, batch.targets, batch.groups, strict=True):
            groups = [self._all, *self._of(value, text)]
            self._differ = self._differ or value != target
            length = math.log(len(target)) if target else None
            for group in groups:
                group.rows += 1
                if self._kind == "classify":
                    label = target.strip()
                    if label in group.labels or len(group.labels) < 1000:
                        group.labels[label] += 1
                elif length is not None:
                    group.lengths.add(length)

    def _of(self, value: str, text: str) -> Iterator[_Group]:
        if value and (value in self._column or len(self._column) < self._KEPT_GROUPS):
            yield self._column.setdefault(value, _Group())
        for name, pattern in self._terms.items():
            if pattern.search(text):
                yield self._listed[name]

    def findings(self) -> Sequence[Finding]:
        largest = sorted(self._column.items(), key=lambda item: -item[1].rows)[: self._MOST_GROUPS]
        found: list[Finding] = []
        for groups in (dict(largest), self._listed):
            if len(groups) < 2:
                continue
            found += self._representation(groups)
            judged = {
                name: group
                for name, group in groups.items()
                if self._FEWEST <= group.rows <= self._all.rows - self._FEWEST
            }
            if len(judged) == 2 and sum(group.rows for group in judged.values()) == self._all.rows:
                del judged[max(judged, key=lambda name: judged[name].rows)]  # the same gap, mirrored
            if self._kind == "classify":
                found += self._label_rates(judged) if self._differ or groups is self._listed else []
            else:
                found += self._lengths(judged)
        return found

    def _representation(self, groups: Mapping[str, _Group]) -> list[Finding]:
        """Groups with far fewer rows than an even share of all that are in some group."""
        total = sum(group.rows for group in groups.values())
        if total < self._FEWEST:
            return []
        even = total / len(groups)
        under = {
            name: group.rows
            for name, group in sorted(groups.items(), key=lambda item: item[1].rows)
            if wilson(group.rows, total, _MISTAKE / len(groups))[1] < self._UNDER * even / total
        }
        if not under:
            return []
        told = []
        for name, rows in list(under.items())[:5]:
            low, high = wilson(rows, total)
            told.append(f"{name[:40]} {rows / total:.1%} ({low:.1%} to {high:.1%})")
        small = sum(group.rows < self._FEWEST for group in groups.values())
        return [
            Finding(
                "representation",
                "warning",
                f"{len(under)} of {len(groups)} groups have under a fifth of an even share "
                f"({1 / len(groups):.1%}): {', '.join(told)}"
                + (f"; {small} with under {self._FEWEST} rows can't be compared further" if small else ""),
                "Collect more rows of them; look at results by group.",
                sum(under.values()),
                self._all.rows,
                numbers={f"share of {name[:40]}": rows / total for name, rows in under.items()},
            )
        ]

    def _label_rates(self, groups: Mapping[str, _Group]) -> list[Finding]:
        labels = [label for label, _ in self._all.labels.most_common(self._MOST_LABELS)]
        if len(labels) == 2:
            del labels[0]  # what one gains the other loses
        mistake = _MISTAKE / max(1, len(groups) * len(labels))
        found = []
        for name, group in groups.items():
            for label in labels:
                count, of = group.labels[label], group.rows
                others, others_of = self._all.labels[label] - count, self._all.rows - of
                low, high = rate_gap(count, of, others, others_of, mistake)
                gap = count / of - others / others_of
                if abs(gap) >= self._RATE and (low > 0 or high < 0):
                    said = (
                        f"{label[:40]!r} is the label of {count / of:.0%} of the rows of {name[:40]}, of "
                        f"{others / others_of:.0%} of the others: {100 * gap:+.0f} points "
                        f"({100 * low:+.0f} to {100 * high:+.0f})"
                    )
                    found.append(self._gap("label rates", said, group, gap, low, high))
        return found

    def _lengths(self, groups: Mapping[str, _Group]) -> list[Finding]:
        judged = {
            name: (group, self._all.lengths.without(group.lengths))
            for name, group in groups.items()
            if group.lengths.count >= self._FEWEST
            and self._all.lengths.count - group.lengths.count >= self._FEWEST
        }
        mistake = _MISTAKE / max(1, len(judged))
        found = []
        for name, (group, others) in judged.items():
            low, high = mean_gap(group.lengths, others, mistake)
            gap = group.lengths.mean - others.mean
            if abs(gap) >= math.log(self._RATIO) and (low > 0 or high < 0):
                said = (
                    f"Answers of {name[:40]} are {math.exp(gap):.2f} times as long as the others "
                    f"({math.exp(low):.2f} to {math.exp(high):.2f})"
                )
                found.append(
                    self._gap("answer lengths", said, group, math.exp(gap), math.exp(low), math.exp(high))
                )
        return found

    def _gap(self, what: str, said: str, group: _Group, gap: float, low: float, high: float) -> Finding:
        return Finding(
            f"{what} by group",
            "warning",
            said,
            "Is the gap so in the world, or does it come from how rows were collected? Collect more rows.",
            group.rows,
            self._all.rows,
            numbers={"gap": gap, "low": low, "high": high},
            ways=("reweight",),
        )


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
