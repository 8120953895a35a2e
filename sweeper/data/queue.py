"""The review queue: the rows most worth a look, as a table for a spreadsheet, most suspicious first."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.data.findings import Finding, printable
from sweeper.failpoints import reach
from sweeper.layout import write_atomically

COLUMNS = ("id", "split", "suspicion", "reason", "text", "answer", "decision", "fixed_input", "fixed_target")

MOST_QUEUED = 500
"""More than a person looks at in a day."""

_ID = "row:"
"""Before an id, else a spreadsheet takes 1234567890123456 or 12e4567890123456 for a number and rounds it."""

_FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")  # noqa: RUF001 - some spreadsheets take the wide forms too
"""How a cell begins that a spreadsheet would calculate, or one that was kept from it."""


@dataclass(frozen=True)
class Suspect:
    """A row of the queue."""

    id: str
    suspicion: float
    """Between 0 and 1."""
    reason: str
    """The checks that suspect it."""
    split: str = ""
    text: str = ""
    """Excerpt of the input."""
    answer: str = ""


def suspects(findings: Sequence[Finding], kept: Callable[[str], bool]) -> list[Suspect]:
    """Who is suspected by any finding, the most suspicious first, MOST_QUEUED at most.

    Rows that a person has `kept` stay out. Several suspicions add up as independent chances do:
    1 - (1 - a)(1 - b).
    """
    innocence: dict[str, float] = {}
    reasons: dict[str, dict[str, None]] = {}
    for finding in findings:
        for id_, suspicion in finding.suspects:
            innocence[id_] = innocence.get(id_, 1.0) * (1.0 - min(max(suspicion, 0.0), 1.0))
            reasons.setdefault(id_, {})[finding.check] = None
    ranked = sorted((id_ for id_ in innocence if not kept(id_)), key=lambda id_: (innocence[id_], id_))
    return [Suspect(id_, 1.0 - innocence[id_], ", ".join(reasons[id_])) for id_ in ranked[:MOST_QUEUED]]


def free_path(path: Path) -> Path:
    """`path`, or the first of queue-2.csv and so on that holds nobody's decisions."""
    number, free = 2, path
    while _is_in_use(free):
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return free


def write_queue(path: Path, rows: Sequence[Suspect]) -> Path:
    """Write the queue, but never over somebody's decisions; gives the path that was free."""
    free = free_path(path)
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for row in rows:
        texts = [guarded(printable(text)) for text in (row.reason, row.text, row.answer)]
        writer.writerow([_ID + row.id, row.split, f"{row.suspicion:.2f}", *texts, "", "", ""])
    # The mark at the beginning tells spreadsheets that this is UTF-8.
    write_atomically(free, "\ufeff" + table.getvalue())
    reach("queue.written")
    return free


def row_id(cell: str) -> str:
    """The id that a cell of the first column names."""
    return cell.strip().removeprefix(_ID)


def guarded(cell: str) -> str:
    """`cell` so that no spreadsheet calculates it."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """The text that `guarded` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_in_use(path: Path) -> bool:
    """Whether somebody has written into the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, csv.Error):
        return True
    own = ("decision", "fixed_input", "fixed_target")
    return any(set(COLUMNS) != row.keys() or any(row[name] for name in own) for row in rows)
