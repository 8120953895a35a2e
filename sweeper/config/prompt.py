"""The prompt around a row: text with columns in braces, and parts that go where their column is empty.

| written | stands for |
|---|---|
| `{name}` | what the row has in the column `name`; `{input}` is the column that data.input names |
| `{#name}...{/name}` | the part between, left out where the column is empty |
| `{{...}}` | literal braces |

Other braces stay as they are: a prompt may hold JSON.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_MARK = re.compile(r"\{\{|\}\}|\{([#/]?)([^\W\d](?:[\w .-]*\w)?)\}")
"""A doubled brace, a column, or where an optional part begins or ends."""

INPUT = "input"
"""The name in a prompt for the column of data.input."""


@dataclass(frozen=True)
class Field:
    """The place of a column."""

    name: str


@dataclass(frozen=True)
class Section:
    """A part that goes where the column is empty."""

    name: str
    parts: "tuple[Part, ...]"


Part = str | Field | Section


@dataclass(frozen=True)
class Prompt:
    """A prompt, read; `names` are those in its braces, once each, in order."""

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, text: str) -> "Prompt":
        """Raises ValueError, in words for the user, for an optional part that has no beginning or no end."""
        return _parse(text)

    @property
    def names(self) -> tuple[str, ...]:
        """Those in braces, once each, in the order in which they occur."""
        return tuple(dict.fromkeys(name for name, _ in _named(self.parts, False)))

    @property
    def needed(self) -> frozenset[str]:
        """Those that stand outside of optional parts: without a text there a row is of no use."""
        return frozenset(name for name, is_optional in _named(self.parts, False) if not is_optional)

    def columns(self, input_column: str | None) -> dict[str, str]:
        """The column that each name stands for; `input_column` is data.input."""
        return {name: input_column or name if name == INPUT else name for name in self.names}

    @property
    def has_many(self) -> bool:
        """Whether a row's input is made of several columns."""
        return len(self.names) > 1

    def render(self, values: Mapping[str, str]) -> str:
        """The prompt with the text of each name in its place; what stands in a text is not read again.

        >>> Prompt.parse("{question}{#hint} ({hint}){/hint}: {{}}").render({"question": "Why?", "hint": ""})
        'Why?: {}'
        """
        return "".join(_rendered(self.parts, values))


@functools.cache
def _parse(text: str) -> Prompt:
    stack: list[tuple[str, list[Part]]] = [("", [])]
    done = doubled = 0
    for mark in _MARK.finditer(text):
        stack[-1][1].append(text[done : mark.start()])
        done = mark.end()
        kind, name = mark.groups()
        if mark[0] == "{{":
            doubled += 1
            stack[-1][1].append("{")
        elif mark[0] == "}}":
            # Nested JSON ends so, too: only what was opened doubled is closed doubled.
            stack[-1][1].append("}" if doubled else "}}")
            doubled = max(0, doubled - 1)
        elif kind == "#":
            stack.append((name, []))
        elif kind == "/":
            opened, parts = stack.pop()
            if opened != name or not stack:
                begun = f"within the part {{#{opened}}}" if opened else f"without {{#{name}}}"
                raise ValueError(f"ends with {{/{name}}} {begun}; a part is {{#{name}}}...{{/{name}}}")
            stack[-1][1].append(Section(name, tuple(filter(None, parts))))
        else:
            stack[-1][1].append(Field(name))
    stack[-1][1].append(text[done:])
    opened, parts = stack[-1]
    if opened:
        raise ValueError(f"has a part {{#{opened}}} without an end; put {{/{opened}}} where it ends")
    return Prompt(tuple(filter(None, parts)))


def _named(parts: tuple[Part, ...], is_optional: bool) -> Iterator[tuple[str, bool]]:
    for part in parts:
        if isinstance(part, Section):
            yield part.name, True
            yield from _named(part.parts, True)
        elif isinstance(part, Field):
            yield part.name, is_optional


def _rendered(parts: tuple[Part, ...], values: Mapping[str, str]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Field):
            yield values[part.name]
        elif values[part.name].strip():
            yield from _rendered(part.parts, values)
