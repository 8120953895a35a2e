"""A docstring as prose: its first sentence, and what follows it, without code, markup and types."""

import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import chain

_MIN_SUMMARY, _MAX_SUMMARY, _MIN_DOCUMENT = 20, 200, 80
"""Characters: below, a text says too little; above, a first sentence is no summary."""

_READ = 4000
"""Characters of a docstring that are read; the manuals beyond that add nothing to its summary."""

_MIN_LETTERS = 0.72
"""Share of letters and spaces below which a text is a table, a formula or code."""

_LETTERS = re.compile(r"[^\W\d_]| ")

_FENCE = re.compile(r"\s*(```|~~~)")
_DOCTEST = re.compile(r"\s*(>>>|In \[\d+\]:)")
_DIRECTIVE = re.compile(r"(\s*)\.\. +(?:([\w:-]+)::|[_\[|]|$)(.*)")
_KEPT_DIRECTIVES = frozenset({"note", "warning", "important", "tip", "caution", "attention", "hint"})
_UNDERLINE = re.compile(r"\s*([-=~^*#+_])\1{2,}\s*$")
_HEADING = re.compile(r"\s*(?:#+ *)?([A-Z][A-Za-z]*(?: [A-Za-z]+){0,2}) ?:{0,2}\s*$")

_DROPPED_SECTIONS = re.compile(
    "examples?|usage|references?|see also|methods|shapes?|doctest|todo|authors?", re.I
)
_NAMED_SECTIONS = re.compile(
    "(keyword )?arg(ument)?s|(other )?param(eter)?s|attributes|inputs?|options|notes?|warnings?",
    re.I,
)
_RESULT_SECTIONS = re.compile("returns?|yields?|raises?|outputs?", re.I)

_REST_FIELD = re.compile(
    r"\s*:(param|parameter|arg|type|rtype|returns?|raises?|keyword|ivar|cvar)\b([^:]*):\s*(.*)"
)
_GOOGLE_ITEM = re.compile(r"(\s*)(\*{0,2}[\w.`]+(?:, [\w.`]+)*) \((?:[^()]|\([^()]*\))*\)\s*:(.*)")
_NUMPY_ITEM = re.compile(r"(\s*)(\*{0,2}[\w.`]+(?:, \*{0,2}[\w.`]+)*) : ")
_TABLE_ROW = re.compile(r"\s*(?:[=+|-]{3,}[-=+| ]*$|[|+].*[|+]\s*$)")
_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+")

_MARKUP = (
    (
        re.compile(r":[\w:+-]+:`~?(?:[^`<>]*\.)?([^`<>.]*)(?:\s*<[^`>]*>)?`"),
        r"\1",
    ),  # :class:`~torch.nn.Linear`
    (re.compile(r"\[([^\]]+)\]\([^)\s]+\)"), r"\1"),  # [text](target)
    (re.compile(r"\[`~?(?:[\w]+\.)*([\w]+)`\]"), r"\1"),  # [`~module.Class`]
    (re.compile(r"`([^`<>]+?)\s*<[^`>]+>`_{0,2}"), r"\1"),  # `text <target>`_
    (re.compile(r"`{1,2}([^`]*)`{1,2}_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])"), r"\1"),
    (re.compile(r" ?\[\d+\]_"), ""),  # a footnote mark
    (re.compile(r"</?(?:[abip]|br|div|em|code|pre|li|ul|strong|Tip)\b[^<>]*>"), ""),
    (re.compile(r"[^\S\n]+"), " "),
)

_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\betc\.)(?<!\bvs\.)(?<!\bcf\.)\s+(?=[\"'(]?[A-Z0-9`])"
)


def split(docstring: str) -> tuple[str, str] | None:
    """Summary and document of a docstring, or None where it holds no honest pair of both."""
    if len(docstring) < _MIN_SUMMARY + _MIN_DOCUMENT:
        return None
    lines = list(_without_code(inspect.cleandoc(docstring[:_READ]).splitlines()))
    paragraphs = _paragraphs(list(_without_sections(lines)))
    if not paragraphs:
        return None
    summary, *remainder = _SENTENCE_END.split(paragraphs[0], maxsplit=1)
    document = _joined([*remainder, *paragraphs[1:]])
    if not _MIN_SUMMARY <= len(summary) <= _MAX_SUMMARY or len(document) < _MIN_DOCUMENT:
        return None
    if not _is_prose(summary) or not _is_prose(document):
        return None
    if summary.rstrip(".").lower() in document.lower():
        return None
    return summary, document


def _is_prose(text: str) -> bool:
    share = len(_LETTERS.findall(text)) / len(text)
    return share >= _MIN_LETTERS and len(text.split()) >= 4 and not text.endswith(":")


def _joined(paragraphs: Sequence[str]) -> str:
    """The paragraphs as one text, each ending like a sentence."""
    ended = [text if text.endswith((".", "!", "?", ":", ";", ",")) else f"{text}." for text in paragraphs]
    return " ".join(ended).removesuffix(":").rstrip()


def _paragraphs(lines: Sequence[str]) -> list[str]:
    """Plain paragraphs; none where the first is an item of a list, for that is no sentence."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        item = _as_item(line)
        if item is not None and not any(map(str.strip, chain(*paragraphs))):
            return []
        if item is not None or not line.strip():
            paragraphs.append([])
        paragraphs[-1].append(line if item is None else item)
    text = "\n".join(" ".join(lines) for lines in paragraphs)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    stripped = (paragraph.strip() for paragraph in text.split("\n"))
    return [paragraph for paragraph in stripped if len(_LETTERS.findall(paragraph)) > 1]


def _without_code(lines: Sequence[str]) -> Iterator[str]:
    """Drops fenced blocks, doctests, literal blocks and directives with all that belongs to them."""
    fence = doctest = False
    hidden: int | None = None  # lines indented deeper than this belong to a dropped block
    for line in lines:
        blank, indent = not line.strip(), len(line) - len(line.lstrip())
        if _FENCE.match(line):
            fence = not fence
            yield ""
            continue
        doctest = (doctest and not blank) or bool(_DOCTEST.match(line))
        is_table = _TABLE_ROW.match(line) and not _UNDERLINE.match(line)
        in_hidden = hidden is not None and (blank or indent > hidden)
        if fence or doctest or is_table or in_hidden:
            continue
        hidden = None
        if directive := _DIRECTIVE.match(line):
            yield ""
            if directive[2] in _KEPT_DIRECTIVES:
                yield directive[3]
            else:
                hidden = indent
        elif line.rstrip().endswith("::"):
            hidden = indent
            yield line.rstrip().removesuffix("::") + "."
            yield ""
        else:
            yield line


def _without_sections(lines: Sequence[str]) -> Iterator[str]:
    """Drops headings, and whole sections of examples, references and the like."""
    dropped: int | None = None  # indentation of the heading of a dropped section
    underlined = False
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if _UNDERLINE.match(line):
            continue
        heading = _HEADING.match(line)
        name = heading[1] if heading else ""
        is_dropped, is_result = _DROPPED_SECTIONS.fullmatch(name), _RESULT_SECTIONS.fullmatch(name)
        is_known = is_dropped or is_result or _NAMED_SECTIONS.fullmatch(name)
        is_underlined = bool(line.strip()) and bool(_UNDERLINE.match(following))
        indent = len(line) - len(line.lstrip())
        if is_underlined or (is_known and line.rstrip().endswith(":")):
            dropped = indent if is_dropped else None
            underlined = is_underlined
            yield ""
            if is_result:
                yield f"{name}:"
        elif dropped is not None and (underlined or not line.strip() or indent > dropped):
            continue
        else:
            dropped = None
            yield line


def _as_item(line: str) -> str | None:
    """A line that opens an item of a list, without its bullet and types; None for any other line."""
    if match := _REST_FIELD.match(line):
        kind, name, text = match[1], match[2].split()[-1:], match[3]
        if kind in ("type", "rtype"):
            return ""
        return f"{name[0]}: {text}" if name else f"Returns: {text}"
    if match := _GOOGLE_ITEM.match(line):
        return f"{match[2]}: {match[3]}"
    if match := _NUMPY_ITEM.match(line):
        return f"{match[2]}:"
    if match := _BULLET.match(line):
        return line[match.end() :]
    return None
