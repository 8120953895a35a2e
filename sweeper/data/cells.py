"""A source's cells as text, and what a row is called from its first reading to the report."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from sweeper.config import DataConfig, TaskConfig
from sweeper.config.prompt import Prompt
from sweeper.data.conversation import read_conversation
from sweeper.data.texts import columns_text


def row_digest(text: str, target: str) -> bytes:
    """Eight bytes that stand for a row; its id is their hex form.

    It is that of the content as the source has it, only without blanks around the target, so that a row
    keeps its id however it is cleaned; rows of the same content share it.
    """
    return hashlib.sha256(json.dumps([text, target.strip()]).encode()).digest()[:8]


def as_text(value: Any) -> str | None:
    """A cell as text: "" where there is none, None where it holds neither text nor a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return encodable(value)
    return str(value) if isinstance(value, bool | int | float) else None


_PLACEHOLDER = re.compile(r"\W*(?:n/a|nan|null|undefined|\[?(?:removed|deleted)\]?)\W*", re.IGNORECASE)
"""What programs write where there is no text."""
_NO_INPUT = frozenset({"none", "na", "nil", "-", "--", "?"})
"""The same, but it can be somebody's answer."""
_LONGEST = 16
"""Characters of a placeholder."""


def is_placeholder(text: str, is_input: bool) -> bool:
    """Whether `text` stands for nothing, as `n/a` does; `none` does as an input, but may be an answer."""
    bare = text.strip()
    if not bare or len(bare) > _LONGEST:
        return False
    return _PLACEHOLDER.fullmatch(bare) is not None or (is_input and bare.casefold() in _NO_INPUT)


TimeKind = Literal["dates", "numbers"]


def as_time(value: Any) -> tuple[float, TimeKind]:
    """A date, a time or a number as a number, later ones larger, and what it was; NaN where there is none.

    Numbers and dates don't compare: 2024 may be a year. Times without a zone are taken for UTC. Raises
    ValueError for anything else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan, "numbers"
    if isinstance(value, str):
        try:
            return float(value), "numbers"
        except ValueError:
            value = datetime.fromisoformat(value.strip())
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp(), "dates"
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value), "numbers"
        except OverflowError as error:
            raise ValueError("a number without end tells no time") from error
    raise ValueError(f"a {type(value).__name__} tells no time")


def encodable(text: str) -> str:
    """`text` with lone surrogates, which JSON allows and UTF-8 does not, replaced."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if not text.isascii() else text


@dataclass(frozen=True)
class Content:
    """What a row is about, as its source has it."""

    text: str
    """The input, as `sweeper.data.texts.Text` has it."""
    target: str
    """With the blanks around it; "" for a chat."""
    wrong: str = ""
    """The option whose cell holds something else than it should: `input`, `target`, `messages`; "" where all
    is well."""
    why: str = ""
    """What is wrong with it."""
    is_chat: bool = False
    columns: tuple[str, ...] = ()
    """Names of the texts that `text` holds as JSON; empty where it is the text itself."""

    @property
    def digest(self) -> bytes:
        return row_digest(self.text, self.target)


def content(row: Mapping[str, Any], data: DataConfig, task: TaskConfig) -> Content:
    """The content of a row; what is not as it should be is given as JSON, so that it can be shown."""
    if task.kind == "chat":
        value = row.get(str(data.messages))
        said, why = read_conversation(value, row.get(data.tools) if data.tools else None)
        if said is None:
            return Content(_shown(value), "", "messages", f"`{data.messages}` {why}", is_chat=True)
        return Content(encodable(said.text), "", is_chat=True)
    prompt = Prompt.parse(task.prompt)
    columns = prompt.columns(data.input)
    cells = {name: row.get(column) for name, column in columns.items()}
    given = row.get(str(data.target))
    texts, target = {name: as_text(cell) for name, cell in cells.items()}, as_text(given)
    bad = [(columns[name], cells[name]) for name, text in texts.items() if text is None]
    wrong = "input" if bad else "target" if target is None else ""
    if wrong:
        column, cell = bad[0] if bad else (data.target, given)
        why = f"has a {type(cell).__name__} in column `{column}`"
        shown = {name: _shown(cells[name]) if text is None else text for name, text in texts.items()}
    else:
        why, shown = "", {name: text or "" for name, text in texts.items()}
    text = columns_text(shown) if prompt.has_many else next(iter(shown.values()))
    target = _shown(given) if target is None else target
    return Content(text, target, wrong, why, columns=prompt.names if prompt.has_many else ())


def lacking(text: str, data: DataConfig, task: TaskConfig) -> str:
    """The column without which the input `text` can't be used, and which has no text; "" if there is none.

    That is one outside of the optional parts of the prompt, or any where all are empty.
    """
    prompt = Prompt.parse(task.prompt)
    columns = prompt.columns(data.input)
    texts = json.loads(text) if prompt.has_many else {prompt.names[0]: text}
    empty = [name for name in prompt.names if not texts[name].strip()]
    lack = [name for name in empty if name in prompt.needed] or empty[: len(empty) == len(prompt.names)]
    return columns[lack[0]] if lack else ""


def _shown(value: Any) -> str:
    """Anything at all as text, "" where there is nothing."""
    if value is None or isinstance(value, str):
        return encodable(value or "")
    try:
        return encodable(json.dumps(value, ensure_ascii=False, default=str))
    except (ValueError, TypeError, RecursionError):
        return f"({type(value).__name__})"
