"""All usable rows of a source: cleaned, without duplicates, on disk, ready to be split."""

import hashlib
import json
import math
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.config import Config
from sweeper.data.encode import RIGHT_FORM, Unusable, check_messages
from sweeper.data.sources import Row, Source
from sweeper.data.splits import Codes
from sweeper.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")

MALFORMED = "malformed messages"
DUPLICATE = "duplicate"

_COLUMNS = ("id", "input", "target", "group", "slice")
_BATCH_CHARACTERS = 4_000_000
_FREE_TEXT = 1000
"""So many different labels are no classes."""


@dataclass(frozen=True)
class Pool:
    """Usable rows, and the codes by which they are split."""

    rows: "Dataset"
    """Text columns `id`, `input`, `target`, `group`, `slice`; a chat's messages are JSON in `input`."""
    parts: Codes
    """[rows] the given split of each row, as a number in SPLITS; train is what is still to be split."""
    groups: Codes | None
    strata: Codes | None
    labels: tuple[str, ...]
    """task.kind=classify: the classes; whole numbers in their order, else alphabetically."""
    harvested: int
    dropped: Counter[str]
    """Rows left out, by reason."""


def gather(source: Source, config: Config, path: Path) -> Pool:
    """Read every part of `source` into an Arrow file at `path`.

    Dropped and counted: rows without input or target, malformed messages, exact duplicates, and training
    rows whose group is also in a given validation or test part. Of duplicates the one in the test part
    stays, before validation, before train.

    Raises DataError if nothing is left, or the labels are no classes.
    """
    from datasets import Dataset

    reader = _Reader(config)
    with _ArrowFile(path) as file:
        for split in reversed(SPLITS):
            if split in source.parts:
                for row in source.parts[split].rows():
                    file.add(reader.read(row, split))
    reader.check(source.description)
    return Pool(
        Dataset.from_file(str(path)),
        np.array(reader.parts, dtype=np.int64),
        reader.groups.array(),
        reader.strata.array(),
        _sorted_labels(reader.labels),
        reader.harvested,
        reader.dropped,
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
        self._kind = config.task.kind
        self._seen: set[bytes] = set()
        self.harvested = 0
        self.dropped: Counter[str] = Counter()
        self.parts = array("b")
        self.groups = _Codes(config.data.group)
        self.strata = _Codes(config.data.stratify)
        self.labels: set[str] = set()

    def read(self, row: Row, split: str) -> dict[str, str] | None:
        """The row in our columns, or None if it is left out."""
        self.harvested += 1
        try:
            text, target = self._texts(row)
        except Unusable as reason:
            self.dropped[str(reason)] += 1
            return None
        digest = hashlib.sha256(json.dumps([text, target]).encode()).digest()
        if digest[:8] in self._seen:
            self.dropped[DUPLICATE] += 1
            return None
        self._seen.add(digest[:8])
        group = self._text(row, "group")
        self.parts.append(SPLITS.index(split))
        self.groups.add(group)
        self.strata.add(self._text(row, "stratify"))
        if self._kind == "classify" and len(self.labels) <= _FREE_TEXT:
            self.labels.add(target)
        return {
            "id": digest[:8].hex(),
            "input": text,
            "target": target,
            "group": group,
            "slice": self._text(row, "slice"),
        }

    def _texts(self, row: Row) -> tuple[str, str]:
        if self._kind == "chat":
            messages = check_messages(row.get(str(self._data.messages)))
            if messages is None:
                raise Unusable(MALFORMED)
            return _encodable(json.dumps(messages, ensure_ascii=False)), ""
        text, target = self._text(row, "input"), self._text(row, "target")
        if not text.strip():
            raise Unusable(f"no {self._data.input}")
        if not target.strip():
            raise Unusable(f"no {self._data.target}")
        return text, target.strip()

    def _text(self, row: Row, option: str) -> str:
        """A cell as text; "" where there is none."""
        column = getattr(self._data, option)
        value: Any = row.get(column) if column is not None else None
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, str):
            return _encodable(value)
        if isinstance(value, bool | int | float):
            return str(value)
        raise DataError(
            f"data.{option}: row {self.harvested} has a {type(value).__name__} in column `{column}`; "
            "text or a number is needed"
        )

    def check(self, source: str) -> None:
        """Raise DataError where no rows, or no classes, are left."""
        data, reasons = self._data, counted(self.dropped)
        if self.harvested == 0:
            raise DataError(f"{source} holds no rows; give a source that does")
        if not self.parts:
            if self.dropped[MALFORMED] == self.harvested:
                raise DataError(
                    f"data.messages: all {self.harvested} rows are malformed; right is {RIGHT_FORM}"
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


def counted(dropped: Counter[str]) -> str:
    """E.g. `3 duplicate, 1 no answer`."""
    return ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())


def _at_least(labels: int) -> str:
    return f"over {_FREE_TEXT}" if labels > _FREE_TEXT else str(labels)


def _encodable(text: str) -> str:
    """`text` with lone surrogates, which JSON allows and UTF-8 does not, replaced."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if not text.isascii() else text


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
        self._batch: list[dict[str, str]] = []
        self._characters = 0

    def __enter__(self) -> "_ArrowFile":
        return self

    def add(self, row: dict[str, str] | None) -> None:
        if row is not None:
            self._batch.append(row)
            self._characters += len(row["input"]) + len(row["target"])
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
