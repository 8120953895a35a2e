"""What is repaired in rows, and which rows are left out: steps by name, in the order of `data.cleaning`.

Cleaning is for training and validation rows. Test rows are measured on as they are: what a step would have
done to them is counted (flagged), nothing more. As it is open while reading which rows become test rows,
the raw text is kept beside the cleaned one, and a row that a step leaves out is only marked.

| step | does |
|---|---|
| encoding | repairs text decoded with the wrong encoding (ftfy), removes control characters |
| whitespace | one kind of line end and of space; no blanks at line ends, no two empty lines in a row |
| formats | composed characters (Unicode NFC), straight quotes, plain hyphens; dashes stay |
| missing | leaves out rows that say `n/a`, `null`, `[deleted]` and the like instead of a text |
| length | leaves out rows beyond the bounds of `data.length` |
| exact_duplicates | leaves out all but the first of equal rows |
| near_duplicates | leaves out all but the first of rows that are alike (`data.audit.near_duplicates`) |
| personal | puts placeholders in the place of personal data and secrets, in tool calls and reasoning too |

Labels (task.kind=classify) are never changed; answers keep what they begin with and their empty lines. A step
that leaves nothing of a text leaves the row out. A row that a person has decided to keep (`data.review`) is
changed by steps, and left out by none.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sweeper.config import DataConfig, LengthConfig
from sweeper.data.cells import is_placeholder
from sweeper.data.manifest import StepCounts
from sweeper.data.texts import ANSWER, Form, Text

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

KEPT = -1
"""In the place of the number of the step that leaves a row out."""

NEAR = "near_duplicates"
"""Can be decided only when all rows are known: `sweeper.data.likeness`."""


PERSONAL = "personal"
"""Looks at tool calls too, in which the other steps could break something."""


@dataclass(frozen=True)
class Cleaned:
    """A row after the steps, and what they did; a step's number is its place in `data.cleaning`."""

    text: Text
    changed: int
    """The bit of every step that changed it."""
    left_out: int
    """Number of the step that leaves it out, or KEPT."""
    compared: str
    """Its texts when near-duplicates were asked for; after all steps if they weren't."""


class Cleaner:
    """Takes one row after the other through the steps."""

    def __init__(self, data: DataConfig, form: Form) -> None:
        self._steps = data.cleaning
        self._length = data.length
        self._form = form
        self._seen: set[int] = set()

    def clean(self, row: Text, keep: bool = False) -> Cleaned:
        """The row after all steps, or up to the step that leaves it out; `keep`: none does."""
        who, fields = zip(*self._form.split(row), strict=True)
        changed, compared = 0, None
        for number, step in enumerate(self._steps):
            if step == NEAR:
                compared = fields
            elif step in _CHANGES:
                change = _CHANGES[step]
                after = tuple(change(field, _is_answer(one)) for one, field in zip(who, fields, strict=True))
                if any(old.strip() and not new.strip() for old, new in zip(fields, after, strict=True)):
                    if keep:
                        continue
                    return Cleaned(row, changed, number, "\n".join(compared or fields))
                before = row
                if after != fields:
                    fields, row = after, self._form.join(row, after)
                if step == PERSONAL:
                    row = self._form.beside(row, lambda text: _personal(text, is_answer=False))
                if row != before:
                    changed |= 1 << number
            elif self._leaves_out(step, row, fields) and not keep:
                return Cleaned(row, changed, number, "\n".join(compared or fields))
        return Cleaned(row, changed, KEPT, "\n".join(compared or fields))

    def _leaves_out(self, step: str, row: Text, fields: Sequence[str]) -> bool:
        if step == "missing":
            # In a chat `none` may be somebody's answer, too.
            inputs = 0 if self._form.kind == "chat" else len(fields) - (self._form.kind == "generate")
            return any(is_placeholder(field, n < inputs) for n, field in enumerate(fields))
        if step == "length":
            return _is_out_of_bounds(row, fields, self._form.kind, self._length)
        key = hash((row.input, row.target.strip()))
        is_known = key in self._seen
        self._seen.add(key)
        return is_known


def count(
    steps: Sequence[str], changed: NDArray[np.int64], left_out: NDArray[np.int8], is_test: NDArray[np.bool_]
) -> dict[str, StepCounts]:
    """What every step did, a row that it saw and left out not counted as changed; [rows] each."""
    counts = {}
    for number, step in enumerate(steps):
        drops = left_out == number
        changes = ((left_out == KEPT) | (left_out > number)) & (changed >> number & 1).astype(bool)
        counts[step] = StepCounts(
            changed=int((changes & ~is_test).sum()),
            dropped=int((drops & ~is_test).sum()),
            flagged=int(((changes | drops) & is_test).sum()),
        )
    return counts


def _is_answer(who: str) -> bool:
    return who in (ANSWER, "assistant")


def _is_out_of_bounds(row: Text, fields: Sequence[str], kind: str, bounds: LengthConfig) -> bool:
    inputs = fields[:-1] if kind == "generate" else fields
    measured = [(sum(map(len, inputs)), bounds.min_input, bounds.max_input)]
    if kind != "chat":
        measured.append((len(row.target), bounds.min_target, bounds.max_target))
    return any(
        (least is not None and length < least) or (most is not None and length > most)
        for length, least, most in measured
    )


@functools.cache
def _encoding_alone() -> "TextFixerConfig":
    """ftfy repairs what was decoded wrongly, and nothing that is a matter of style."""
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        normalization=None,
        explain=False,
    )


def _encoding(text: str, is_answer: bool) -> str:
    from ftfy import fix_text

    return fix_text(text, _encoding_alone())


_LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
_ODD_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]")
"""Not the joiners U+200C and U+200D: scripts and emoji need them."""
_BLANKS_BEFORE_LINE_END = re.compile(r"[ \t\f\v]+(?=\n|\Z)")
_EMPTY_LINES = re.compile(r"\n{3,}")


def _whitespace(text: str, is_answer: bool) -> str:
    """Blanks within and at the beginning of lines stay: they may be code or a table.

    An answer is what is learned to be written: it keeps all blanks and line ends but those that end a line
    or the answer.
    """
    text = _INVISIBLE.sub("", _ODD_SPACES.sub(" ", _LINE_ENDS.sub("\n", text)))
    text = _BLANKS_BEFORE_LINE_END.sub("", text)
    if is_answer:
        return text.rstrip("\n")
    text = _EMPTY_LINES.sub("\n\n", text).strip("\n")
    return text if "\n" in text else text.strip()


_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        **dict.fromkeys("\u2010\u2011", "-"),
        "\u00ad": None,  # a soft hyphen is a place to break a word, not a character of it
    }
)


def _formats(text: str, is_answer: bool) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text).translate(_PLAIN)


def _personal(text: str, is_answer: bool) -> str:
    from sweeper.data.personal import mask

    return mask(text)


_CHANGES: Mapping[str, Callable[[str, bool], str]] = {
    "encoding": _encoding,
    "whitespace": _whitespace,
    "formats": _formats,
    PERSONAL: _personal,
}
