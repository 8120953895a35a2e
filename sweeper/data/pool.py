"""All usable rows of a source, raw and cleaned, on disk, ready to be split."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweeper.config import Config
from sweeper.config.prompt import INPUT, Prompt
from sweeper.data.cells import Content, TimeKind, as_text, as_time, content, lacking, row_digest
from sweeper.data.cleaning import KEPT, Cleaner
from sweeper.data.conversation import RIGHT_FORM
from sweeper.data.encode import Unusable
from sweeper.data.files import SPLITS
from sweeper.data.forms import mending
from sweeper.data.likeness import Likenesses
from sweeper.data.personal import masked_excerpt
from sweeper.data.review import Review, read_review
from sweeper.data.sources import Row, Source
from sweeper.data.splits import Codes
from sweeper.data.texts import Form, Text
from sweeper.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

MALFORMED = "malformed messages"
REVIEWED = "dropped in review"

_COLUMNS = ("id", "input", "target", "clean_input", "clean_target", "group", "slice")
_BATCH_CHARACTERS = 4_000_000
_SHOWN = 120
"""Characters of what is the matter with a row."""
_FREE_TEXT = 1000
"""So many different labels are no classes."""


@dataclass(frozen=True)
class Pool:
    """Usable rows, and the codes by which they are split."""

    rows: "Dataset"
    """Text columns `id`, `input`, `target`, `clean_input`, `clean_target` (None where cleaning changed
    nothing), `group`, `slice`; a chat's messages are JSON in `input`."""
    parts: Codes
    """[rows] the given split of each row, as a number in SPLITS; train is what is still to be split."""
    groups: Codes | None
    strata: Codes | None
    times: NDArray[np.float64] | None
    """[rows] seconds or whatever the column counts in, later is larger; NaN in given validation and test."""
    alike: Codes
    """[rows] equal for near-duplicates, or for copies alone without data.keep_together."""
    changed: Codes
    """[rows] bits of the cleaning steps that changed it (`cleaning.Cleaned`)."""
    left_out: NDArray[np.int8]
    """[rows] number of the cleaning step that keeps it out of train and validation, else cleaning.KEPT."""
    labels: tuple[str, ...]
    """task.kind=classify: the classes; whole numbers in their order, else alphabetically."""
    harvested: int
    dropped: Counter[str]
    """Rows left out, by reason."""
    reviewed: Counter[str]
    """Rows by what a person decided on them."""
    first: dict[str, str]
    """Where the first row stands that was left out, by reason, and what in it is the matter."""
    warnings: tuple[str, ...]
    """What a person should know of how the rows were read, in sentences."""
    numbers: Codes
    """[rows] the number of each in its part of the source, from 1."""

    def drop(self, reason: str, row: int, why: str = "") -> None:
        """Count a row that is left out after all; `why`: what in it is the matter."""
        self.dropped[reason] += 1
        if reason not in self.first:
            self.first[reason] = place(SPLITS[self.parts[row]], int(self.numbers[row]), why)

    def without(self, steps: Sequence[str]) -> str:
        """What was left out so far, for messages; `steps` are those of cleaning: `3 length, 1 no answer`."""
        numbers = self.left_out[self.left_out != KEPT]
        return counted(self.dropped + Counter(steps[number] for number in numbers.tolist()))


def gather(source: Source, config: Config, path: Path) -> Pool:
    """Read every part of `source` into an Arrow file at `path`.

    A person's decisions (`data.review`) come first. Dropped and counted are then rows without input,
    target or time, and malformed messages: no split has a use for them. What cleaning leaves out is only
    marked, for it may still be drawn as a test row. Of duplicates the one in the test part stays, before
    validation, before train.

    Raises DataError if nothing is left, the labels are no classes, or decisions are about other rows.
    """
    from datasets import Dataset

    reader = _Reader(config)
    with _ArrowFile(path) as file:
        for split in reversed(SPLITS):
            if split in source.parts:
                for row in source.parts[split].rows():
                    file.add(reader.read(row, split))
    reader.check(source.description)
    reader.review.check_met()
    left_out = np.array(reader.left_out, dtype=np.int8)
    alike = reader.likenesses.find(left_out, np.array(reader.kept, dtype=np.bool_))
    return Pool(
        rows=Dataset.from_file(str(path)),
        parts=np.array(reader.parts, dtype=np.int64),
        groups=reader.groups.array(),
        strata=reader.strata.array(),
        times=None if config.data.time is None else np.array(reader.times),
        alike=alike,
        changed=np.array(reader.changed, dtype=np.int64),
        left_out=left_out,
        labels=_sorted_labels(reader.labels),
        harvested=reader.harvested,
        dropped=reader.dropped,
        reviewed=reader.review.counts,
        first=reader.first,
        warnings=reader.warnings,
        numbers=np.array(reader.numbers, dtype=np.int64),
    )


class _Codes:
    """A column as integers; a missing value is a value of its own."""

    def __init__(self, column: str | None) -> None:
        self.column = column
        self._known: dict[str, int] = {}
        self._codes = array("q")

    def add(self, value: str) -> None:
        if self.column is not None:
            known = value or f"\0{len(self._codes)}"
            self._codes.append(self._known.setdefault(known, len(self._known)))

    def array(self) -> Codes | None:
        return None if self.column is None else np.array(self._codes, dtype=np.int64)


class _Reader:
    """Turns a source's rows into our columns, one at a time, and keeps count."""

    def __init__(self, config: Config) -> None:
        self._data = config.data
        self._task = config.task
        self._kind = config.task.kind
        self._cleaner = Cleaner(config.data, Form.of(config.task))
        self.likenesses = Likenesses(config.data)
        self.review: Review = read_review(config.data.review)
        self.harvested = 0
        self.read_of: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.warnings: tuple[str, ...] = ()
        self.numbers = array("q")
        self.parts = array("b")
        self.groups = _Codes(config.data.group)
        self.strata = _Codes(config.data.stratify)
        self.times = array("d")
        self.changed = array("q")
        self.left_out = array("b")
        self.kept = array("b")
        self.labels: set[str] = set()
        self._time_kind: TimeKind | None = None

    def read(self, row: Row, split: str) -> dict[str, str | None] | None:
        """The row in our columns, or None if it is left out."""
        self.harvested += 1
        self.read_of[split] += 1
        if self.harvested == 1:
            self._look_for_another_input(row)
        raw = content(row, self._data, self._task)
        reviewed = self.review.apply(raw, split)
        if reviewed is None:
            self._drop(REVIEWED, split)
            return None
        try:
            text, target = self._texts(reviewed, row)
            time = self._time(row) if split == "train" else math.nan
        except Unusable as reason:
            self._drop(str(reason), split, raw.why)
            return None
        keep = self.review.kept(raw.digest.hex())
        cleaned = self._cleaner.clean(Text(text, target), keep)
        self.kept.append(keep)
        self.numbers.append(self.read_of[split])
        self.likenesses.add(row_digest(text, target), cleaned.compared)
        self.changed.append(cleaned.changed)
        self.left_out.append(cleaned.left_out)
        self.times.append(time)
        group = self._text(row, "group")
        self.parts.append(SPLITS.index(split))
        self.groups.add(group)
        self.strata.add(self._text(row, "stratify"))
        if self._kind == "classify" and len(self.labels) <= _FREE_TEXT:
            self.labels.add(target)
        return {
            "id": raw.digest.hex(),
            "input": text,
            "target": target,
            "clean_input": cleaned.text.input if cleaned.text.input != text else None,
            "clean_target": cleaned.text.target if cleaned.text.target != target else None,
            "group": group,
            "slice": self._text(row, "slice"),
        }

    def _look_for_another_input(self, row: Row) -> None:
        """Warn of a column `input` that {input} doesn't mean; raise DataError where the prompt has others."""
        named, target = self._data.input, self._data.target
        if self._kind == "chat" or INPUT not in row or named in (None, INPUT) or target == INPUT:
            return
        prompt = Prompt.parse(self._task.prompt)
        if INPUT in prompt.names:
            other = (
                f"{{input}} stands for the column `{named}` (data.input), and the rows have a column `input`"
            )
            other += " too"
            if prompt.has_many:
                raise DataError(
                    f"task.prompt: {other}; write {{{named}}} for the one and set data.input=null, so that "
                    "{input} is the other"
                )
            self.warnings = (
                f"{other}, which the model doesn't see; for both: data.input=null and a prompt with "
                f"{{{named}}} and {{input}}, or {{#input}}{{input}}{{/input}} where it may be empty",
            )

    def _drop(self, reason: str, split: str, why: str = "") -> None:
        self.dropped[reason] += 1
        self.first.setdefault(reason, place(split, self.read_of[split], why))

    def _texts(self, content: Content, row: Row) -> tuple[str, str]:
        """Input and target, fit to be trained on."""
        if content.wrong == "messages":
            raise Unusable(MALFORMED)
        if content.wrong:
            raise DataError(
                f"data.{content.wrong}: row {self.harvested} {content.why}; text or a number is needed"
            )
        if self._kind == "chat":
            return content.text, ""
        if column := lacking(content.text, self._data, self._task):
            raise Unusable(f"no {column}")
        if not content.target.strip():
            raise Unusable(f"no {self._data.target}")
        return content.text, content.target.strip() if self._kind == "classify" else content.target

    def _text(self, row: Row, option: str) -> str:
        """A cell as text; "" where there is none."""
        column = getattr(self._data, option)
        value: Any = row.get(column) if column is not None else None
        text = as_text(value)
        if text is not None:
            return text
        raise DataError(
            f"data.{option}: row {self.harvested} has a {type(value).__name__} in column `{column}`; "
            f"{mending(option, self._kind)[:1].lower()}{mending(option, self._kind)[1:]}"
        )

    def _time(self, row: Row) -> float:
        column = self._data.time
        if column is None:
            return math.nan
        try:
            time, kind = as_time(row.get(column))
        except ValueError as error:
            raise DataError(
                f"data.time: row {self.harvested} has {str(row[column])[:40]!r} in column `{column}`; a date "
                "or time as 2024-05-31 or 2024-05-31T12:00:00Z, or a number, is needed"
            ) from error
        if not math.isfinite(time):
            raise Unusable(f"no {column}")
        self._time_kind = self._time_kind or kind
        if kind != self._time_kind:
            raise DataError(
                f"data.time: row {self.harvested} has {str(row[column])[:40]!r} in column `{column}`, where "
                f"rows before it have {self._time_kind}; write all as dates, or all as numbers"
            )
        return time

    def check(self, source: str) -> None:
        """Raise DataError where no rows, or no classes, are left."""
        data, reasons = self._data, counted(self.dropped)
        if self.harvested == 0:
            raise DataError(f"{source} holds no rows; give a source that does")
        if not self.parts:
            if self.dropped[MALFORMED] == self.harvested:
                raise DataError(
                    f"data.messages: all {self.harvested} rows are malformed; e.g. "
                    f"{self.first[MALFORMED]}; right is {RIGHT_FORM}"
                )
            missing = f"no {data.target}"
            if self.dropped[missing] == self.harvested:
                raise DataError(f"data.target: every one of {self.harvested} rows lacks `{data.target}`")
            raise DataError(f"{source}: of {self.harvested} rows none is usable ({reasons})")
        if self._kind != "classify":
            return
        if len(self.labels) == 1:
            raise DataError(
                f"data.target: `{data.target}` has a single class, {next(iter(self.labels))!r}; "
                "two are needed"
            )
        if len(self.labels) > min(_FREE_TEXT, len(self.parts) // 2):
            raise DataError(
                f"data.target: `{data.target}` has {_at_least(len(self.labels))} different values in "
                f"{len(self.parts)} rows; that is no class. "
                "Name a column of labels, or set task.kind=generate"
            )


def place(split: str, number: int, why: str = "") -> str:
    """Where a row stands, and what in it is the matter; row 1 is the first of its part."""
    where = f"row {number}" if split == "train" else f"row {number} of {split}"
    return f"{where}: {masked_excerpt(why, _SHOWN)}" if why else where


def counted(dropped: Counter[str]) -> str:
    """E.g. `3 duplicate, 1 no answer`."""
    return ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())


def _at_least(labels: int) -> str:
    return f"over {_FREE_TEXT}" if labels > _FREE_TEXT else str(labels)


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(labels, key=int))
    except ValueError:
        return tuple(sorted(labels))


class _ArrowFile:
    """Writes rows to an Arrow stream in batches of a few megabytes."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._schema = pa.schema([(name, pa.large_string()) for name in _COLUMNS])
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)
        self._batch: list[dict[str, str | None]] = []
        self._characters = 0

    def __enter__(self) -> "_ArrowFile":
        return self

    def add(self, row: dict[str, str | None] | None) -> None:
        if row is not None:
            self._batch.append(row)
            self._characters += sum(len(text or "") for text in row.values())
            if self._characters > _BATCH_CHARACTERS or len(self._batch) >= 1000:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_batch(pa.RecordBatch.from_pylist(self._batch, schema=self._schema))
        self._batch, self._characters = [], 0

    def __exit__(self, *_: object) -> None:
        if self._batch:
            self._flush()
        self._writer.close()
        self._file.close()
