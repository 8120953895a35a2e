"""Parts of the evaluation rows that have something in common: a column's value, a length, a class."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.config import TaskConfig
from sweeper.config.metrics import MetricName
from sweeper.errors import DataError
from sweeper.metrics.measured import Rows

MOST_VALUES = 20
"""So many values of a column are shown, those with the most rows; the others together."""

_LENGTHS = 3


@dataclass(frozen=True)
class About:
    """What is known of n rows beside their texts; "" where a row has no value, -1 where it has no class."""

    slices: Sequence[str]
    groups: Sequence[str]
    lengths: Sequence[int]
    """Tokens of the prompts."""
    labels: Sequence[int]

    @classmethod
    def read(cls, rows: Any) -> "About":
        """Of a `datasets.Dataset` with the columns that `sweeper.data.prepare` describes."""
        lengths = [len(ids) for ids in rows["prompt_ids"]]
        return cls(list(rows["slice"]), list(rows["group"]), lengths, list(rows["label"]))


@dataclass(frozen=True)
class Slice:
    """Rows that have one value in common."""

    by: str
    value: str
    rows: Rows


@dataclass(frozen=True)
class Slices:
    """One set of rows, told apart."""

    compared: Mapping[str, tuple[Slice, ...]]
    """By `slice`, `group` and `length`: every value that rows have, however few rows."""
    shown: tuple[Slice, ...]
    """What people are shown: the commonest values, the others together, and rows without a value."""
    rarest: int | None = None
    """The class with the fewest rows; None where there are no classes."""

    def enough(self, by: str, least: int) -> tuple[Slice, ...]:
        """The slices with at least `least` rows."""
        return tuple(one for one in self.compared[by] if len(one.rows) >= least)


@dataclass(frozen=True)
class Slicing:
    """How rows are told apart, fixed by the validation rows, so that test rows fall into the same slices."""

    values: Mapping[str, tuple[str, ...]]
    """The commonest values of `slice` and `group`."""
    bounds: tuple[int, ...]
    """Upper bounds of the length slices but the last, in tokens: terciles."""
    rarest: int | None

    @classmethod
    def of(cls, about: About) -> "Slicing":
        """The slices that these rows fall into: commonest values, terciles of length, the rarest class."""
        columns = {"slice": about.slices, "group": about.groups}
        values = {by: _commonest(column) for by, column in columns.items()}
        thirds = np.quantile(about.lengths, [i / _LENGTHS for i in range(1, _LENGTHS)], method="inverted_cdf")
        bounds = sorted({int(bound) for bound in thirds if bound < max(about.lengths)})
        classes = Counter(label for label in about.labels if label >= 0)
        rarest = min(classes, key=lambda label: (classes[label], label), default=None)
        return cls(values, tuple(bounds), rarest)

    def over(self, about: About) -> Slices:
        """Rows told apart this way. A group that is the same as the slice is not shown twice."""
        by_slice, by_group = _by_value(about.slices), _by_value(about.groups)
        lengths = self._lengths(about.lengths)
        shown = self._shown("slice", by_slice)
        if list(about.groups) != list(about.slices):
            shown += self._shown("group", by_group)
        compared = {
            "slice": _slices("slice", by_slice),
            "group": _slices("group", by_group),
            "length": lengths,
        }
        if len(lengths) > 1:
            shown += lengths
        return Slices(compared, tuple(shown), self.rarest)

    def _shown(self, by: str, rows: Mapping[str, Rows]) -> list[Slice]:
        if set(rows) == {""}:
            return []
        shown = [Slice(by, value, rows[value]) for value in self.values[by] if value in rows]
        others = [value for value in rows if value and value not in self.values[by]]
        if others:
            together = np.concatenate([rows[value] for value in others])
            value = f"{len(others):,} other value{'s' if len(others) > 1 else ''}"
            shown.append(Slice(by, value, together))
        if "" in rows:
            shown.append(Slice(by, "no value", rows[""]))
        return shown

    def _lengths(self, lengths: Sequence[int]) -> tuple[Slice, ...]:
        which = np.searchsorted(self.bounds, lengths, side="left")
        names = [f"up to {bound} tokens" for bound in self.bounds]
        names.append(f"over {self.bounds[-1]} tokens" if self.bounds else "any")
        found = ((name, np.flatnonzero(which == i)) for i, name in enumerate(names))
        return tuple(Slice("length", name, rows) for name, rows in found if len(rows))


def check(task: TaskConfig, about: About) -> None:
    """Raise DataError if the rows have too few slices for a metric that the task names."""
    least, slices = task.evaluation.slice_rows, Slicing.of(about).over(about)
    for name in task.named_metrics:
        parsed = MetricName.parse(name)
        if parsed.how == "rarest":
            count = sum(label == slices.rarest for label in about.labels)
            if count < least:
                raise DataError(
                    f"`{name}`: the rarest class has {count} validation rows, and {least} are needed "
                    f"(task.evaluation.slice_rows). {_more_rows(count)}"
                )
        elif parsed.how != "whole" and len(slices.enough(parsed.by, least)) < 2:
            found = sorted(slices.compared[parsed.by], key=lambda one: -len(one.rows))[:5]
            counts = ", ".join(f"{one.value} {len(one.rows)}" for one in found) or "no value at all"
            what = "lengths" if parsed.by == "length" else f"values of data.{parsed.by}"
            raise DataError(
                f"`{name}` compares {what} with at least {least} validation rows each "
                f"(task.evaluation.slice_rows), and needs two; found: {counts}. "
                + _more_rows(len(found[1].rows) if len(found) > 1 else 0)
            )


def _more_rows(most: int) -> str:
    """What helps where `most` rows are all that there are."""
    lower = f", or set task.evaluation.slice_rows={most} or less" if most else ""
    return f"Raise data.sizes.validation{lower}"


def _by_value(column: Iterable[str]) -> dict[str, Rows]:
    """The rows of every value."""
    found: dict[str, list[int]] = {}
    for row, value in enumerate(column):
        found.setdefault(value, []).append(row)
    return {value: np.array(rows) for value, rows in found.items()}


def _slices(by: str, rows: Mapping[str, Rows]) -> tuple[Slice, ...]:
    return tuple(Slice(by, value, some) for value, some in rows.items() if value)


def _commonest(column: Iterable[str]) -> tuple[str, ...]:
    """The commonest values, the first in the alphabet of equally common ones."""
    counts = Counter(value for value in column if value)
    return tuple(sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES])
