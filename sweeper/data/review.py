"""A person's decisions on rows: read back from the queue that an audit wrote, and applied by row id.

The test part is what results are judged by, and stays as it was given: decisions on its rows are
counted, not applied.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.data.cells import Content
from sweeper.data.conversation import RIGHT_FORM, Conversation, read_conversation
from sweeper.data.queue import COLUMNS, row_id, unguarded
from sweeper.errors import DataError

DECISIONS = ("keep", "drop", "fix")

LEFT = "left as it is (test)"

_MOST_FAULTS = 5
"""So many are told at once."""


@dataclass(frozen=True)
class Decision:
    """What is to be done with a row."""

    line: int
    """Row of the file as a spreadsheet counts them: the header is row 1."""
    action: str
    """One of DECISIONS."""
    text: str | None = None
    """fix: the new input; None: it stays."""
    target: str | None = None


@dataclass
class Review:
    """All decisions of a file, and which of them have met their row."""

    path: Path | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    """By row id."""
    counts: Counter[str] = field(default_factory=Counter)
    """Rows met so far, by what was done with them."""
    _met: set[str] = field(default_factory=set)

    @property
    def digest(self) -> str | None:
        """Of what was decided, whatever else stands in the file; None without a file."""
        if self.path is None:
            return None
        told = [[id_, d.action, d.text, d.target] for id_, d in sorted(self.decisions.items())]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    def kept(self, id_: str) -> bool:
        """Whether a person has looked at the row and found it right."""
        return id_ in self.decisions and self.decisions[id_].action == "keep"

    def apply(self, content: Content, split: str) -> Content | None:
        """The row as it was decided on, None if it is to be dropped.

        Raises DataError if a conversation was fixed into something that is none.
        """
        if not self.decisions:
            return content
        id_ = content.digest.hex()
        decision = self.decisions.get(id_)
        if decision is None:
            return content
        self._met.add(id_)
        if split == "test" and decision.action != "keep":
            self.counts[LEFT] += 1
            return content
        self.counts[decision.action] += 1
        if decision.action == "drop":
            return None
        return _fixed(content, decision) if decision.action == "fix" else content

    def check_met(self) -> None:
        """After the last row: raise DataError if there are decisions on rows that don't exist."""
        strange = [
            f"row {decision.line} ({id_})" for id_, decision in self.decisions.items() if id_ not in self._met
        ]
        if strange:
            raise DataError(
                f"data.review: {self.path} decides on {len(strange)} rows that the data don't have: "
                f"{_some(strange, ', ')}. It was written for other rows, or an id was changed; take those "
                "rows out of it, or write a new queue: python -m sweeper audit ..."
            )


def read_review(path: Path | None) -> Review:
    """The decisions in a queue, or in several put under each other; rows without one are passed over.

    Without a path there are no decisions. Commas, semicolons and tabs are understood, as different
    spreadsheets write them. Raises DataError: no such file, no such columns, an unknown decision, a fix
    without anything fixed, two decisions on one row.
    """
    if path is None:
        return Review()
    decisions: dict[str, Decision] = {}
    faults = []
    for line, row in _rows(path):
        action = row["decision"].strip().lower()
        text, target = (unguarded(row.get(name) or "") or None for name in ("fixed_input", "fixed_target"))
        id_ = row_id(row["id"])
        decision = Decision(line, action, text, target)
        fault = _fault(decision, decisions.get(id_))
        if fault:
            faults.append(f"row {line}: {fault}")
        elif action:
            decisions.setdefault(id_, decision)
    if faults:
        raise DataError(f"data.review: {path}: {_some(faults, '; ')}")
    return Review(path, decisions)


def _fixed(content: Content, decision: Decision) -> Content:
    if content.is_chat:
        fixed, _ = read_conversation(decision.text, _tools(content))
        if fixed is None:
            raise DataError(
                f"data.review: row {decision.line}: fixed_input is no conversation; right is {RIGHT_FORM}"
            )
        return Content(fixed.text, "", is_chat=True)
    text = content.text if decision.text is None else decision.text
    if content.columns and not _holds(text, content.columns):
        raise DataError(
            f"data.review: row {decision.line}: fixed_input must be a JSON object of the prompt's columns, "
            f"each a text: {', '.join(content.columns)}"
        )
    target = content.target if decision.target is None else decision.target
    repaired = (content.wrong == "input" and decision.text is not None) or (
        content.wrong == "target" and decision.target is not None
    )
    wrong, why = ("", "") if repaired else (content.wrong, content.why)
    return Content(text, target, wrong, why, columns=content.columns)


def _tools(content: Content) -> Any:
    """The tools of a conversation, which stay as they are; None where it is none or has none."""
    try:
        return Conversation.parse(content.text).tools
    except (ValueError, KeyError, TypeError):
        return None


def _holds(text: str, columns: Sequence[str]) -> bool:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(tree, dict)
        and list(tree) == list(columns)
        and all(isinstance(value, str) for value in tree.values())
    )


def _fault(decision: Decision, earlier: Decision | None) -> str:
    fixed = decision.text is not None or decision.target is not None
    if not decision.action:
        return "something is fixed, but the decision is empty; write `fix`" if fixed else ""
    if decision.action not in DECISIONS:
        return f"`{decision.action[:40]}` is no decision; allowed: {', '.join(DECISIONS)}, or nothing"
    if decision.action == "fix" and not fixed:
        return "`fix` needs the new text in fixed_input or fixed_target"
    if decision.action != "fix" and fixed:
        return f"`{decision.action}`, but something is fixed; write `fix`, or empty the columns fixed_..."
    if earlier is not None and (earlier.action, earlier.text, earlier.target) != (
        decision.action,
        decision.text,
        decision.target,
    ):
        return f"decides on the same row as row {earlier.line}, in another way"
    return ""


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of the file with their number, the columns checked."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.review: {path} is no text in UTF-8; save it as CSV UTF-8") from error
    except OSError as error:
        reason = "there is no file" if isinstance(error, FileNotFoundError) else "can't read"
        raise DataError(f"data.review: {reason} {path}; an audit writes it as queue.csv") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    before = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
        missing = [name for name in ("id", "decision") if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"data.review: {path} has no column {' and '.join(missing)}; a queue has {', '.join(COLUMNS)}"
            )
        # A header in between is that of another queue, put under the first one.
        yield from ((n, row) for n, row in enumerate(reader, start=2) if row["decision"] != "decision")
    except csv.Error as error:
        raise DataError(f"data.review: {path} is no readable .csv: {error}") from error
    finally:
        csv.field_size_limit(before)


def _some(items: Sequence[str], joint: str) -> str:
    more = f"{joint}and {len(items) - _MOST_FAULTS} more" if len(items) > _MOST_FAULTS else ""
    return joint.join(items[:_MOST_FAULTS]) + more
