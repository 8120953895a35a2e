"""What an audit finds, and the form that every check has: it sees all rows once, batch by batch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Severity = Literal["error", "warning", "note"]

MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Batch:
    """Some rows as their source has them, before cleaning."""

    first: int
    """Number of the first row; rows are numbered through over all splits."""
    ids: Sequence[str]
    splits: Sequence[str]
    """`train`, `validation` or `test`; what is still to be split is `train`."""
    inputs: Sequence[str]
    targets: Sequence[str]
    """Answers, or labels where task.kind is classify; "" for conversations."""
    groups: Sequence[str]
    """The values of `data.audit.groups` (else of `data.slice`), "" where there is none."""


@dataclass(frozen=True)
class Example:
    """A row to look at."""

    row: str
    """Its id."""
    split: str
    text: str
    """What is to be seen: short, personal data masked; hostile text all the same."""


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know about the rows."""

    check: str
    severity: Severity
    """error: training on these rows misleads; warning: look at it; note: good to know."""
    message: str
    """What was found, a sentence with its numbers."""
    advice: str
    """What to do about it."""
    count: int
    """Rows concerned."""
    of: int
    """Rows looked at."""
    examples: tuple[Example, ...] = ()
    """Five at most, the most telling first."""
    suspects: tuple[tuple[str, float], ...] = ()
    """Row ids for the review queue with a suspicion between 0 and 1, the most suspicious first."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Further measurements, by name."""
    ways: tuple[str, ...] = ()
    """Settings that help, by their names in `sweeper.advice.WAYS`; told where they are not on already."""

    @property
    def share(self) -> float:
        """Rows concerned out of those looked at, between 0 and 1."""
        return self.count / self.of if self.of else 0.0


class Check(Protocol):
    """Looks at rows; holds a few bytes per row at most."""

    def see(self, batch: Batch) -> None:
        """Take notice of a batch; batches come in order, each row once."""

    def findings(self) -> Sequence[Finding]:
        """After the last batch: what is to be told, nothing where all is well."""


def excerpt(text: str, length: int = 160) -> str:
    """`text` on one line, cut to `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def printable(text: str) -> str:
    """`text` with what could steer a terminal or turn the reading direction shown as its code, e.g. <1b>."""
    return _STEERING.sub(lambda found: f"<{ord(found[0]):02x}>", text)


_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters but for tab and line feed, and those of the Unicode bidirectional algorithm."""
