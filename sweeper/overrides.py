"""Overrides as people type them, read before Hydra sees them.

What Hydra's grammar can't read, what a shell has taken apart and what belongs to other tools is told with the
words that work here. A number that is given for a setting of text is that text.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from sweeper import habits
from sweeper.config import Config
from sweeper.credentials import masked
from sweeper.errors import Fault
from sweeper.inert import fault_of_hydra
from sweeper.space import ENTRY_KEYS, setting_names

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

Composed = Callable[[Sequence[str]], Mapping[str, Any]]
"""What some overrides compose to, by dotted name; empty where they can't be composed."""

_SECRETIVE = ("sweep.study", "tracking.uri")
"""Settings that may hold a password."""

_NAME = re.compile(r"[+~]*[A-Za-z_][\w./@:-]*")


@dataclass(frozen=True)
class Line:
    """What became of the words of a command line."""

    words: tuple[str, ...]
    """Overrides that Hydra can read; those that can't be mended are left out."""
    faults: tuple[Fault, ...] = ()
    is_mended: bool = True
    """Whether `words` say all that was meant."""


def read_line(given: Sequence[str], composed: Composed) -> Line:
    """Read the words of a command line; every fault comes with what to write instead, where that is known."""
    words: list[str] = []
    faults: list[Fault] = []
    is_mended = True
    for found in map(_looked_at, _whole_words(given)):
        instead = found.instead
        if isinstance(instead, _Entry):
            others = [word for word in given if word not in (found.word, *words)]
            instead = instead.words(composed([*words, *others]))
        if found.why:
            faults.append(Fault(found.field, found.why + _shown_instead(instead)))
            is_mended = is_mended and instead is not None
        words += instead or ()
    return Line(tuple(words), tuple(faults), is_mended)


def masked_override(text: str) -> str:
    """An override without its secrets, fit to be shown: passwords and tokens are replaced."""
    name, _, value = text.partition("=")
    if name.lstrip("+~-'\"") in _SECRETIVE and "://" not in value:
        shown = masked(value)
        return text if shown == value else f"{name}=***"
    return masked(text) if "://" in text else text


def is_secretive(field: str) -> bool:
    """Whether the setting may hold a password."""
    return field.startswith(_SECRETIVE)


def quoted(text: str) -> str:
    """`text` as a string of Hydra's grammar, in which nothing has another meaning."""
    for mark in "\"'":
        if mark not in text and not text.endswith("\\"):
            return f"{mark}{text}{mark}"
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


# One word


@dataclass(frozen=True)
class _Entry:
    """Words that put `form` into the space; which ones depends on what it has there."""

    name: str
    form: habits.Form

    def words(self, others: Mapping[str, Any]) -> tuple[str, ...]:
        """Beside `others`. A default that the form leaves out gives way to the nearest one: a sweep begins
        with it."""
        name, form = self.name, habits.written(self.form)
        there = {key for key in ENTRY_KEYS if others.get(f"space.{name}.{key}") is not None}
        if not there:
            found = [f"+space.{name}={form}"]
        elif "choices" in there and "choices" in self.form:
            found = [f"space.{name}.choices={habits.written(self.form['choices'])}"]
        elif "low" in there and "low" in self.form and "step" not in there:
            found = [f"space.{name}={form}"]  # what else it has, such as its scale, stays
        else:
            found = [f"~space.{name}", f"+space.{name}={form}"]
        start = self._start(others.get(f"trial.{name}"))
        return (*found, *([] if start is None else [f"trial.{name}={habits.written(start)}"]))

    def _start(self, default: Any) -> Any:
        """The value nearest to a default that lies outside; None if it needn't change."""
        if "choices" in self.form:
            choices = self.form["choices"]
            if default in choices or default is None:
                return None
            numbers = all(isinstance(one, (int, float)) for one in (*choices, default))
            return min(choices, key=lambda one: abs(one - default)) if numbers else choices[0]
        low, high = self.form["low"], self.form["high"]
        if not isinstance(default, (int, float)) or low <= default <= high:
            return None
        return low if default < low else high


@dataclass(frozen=True)
class _Found:
    """What one word is: fine, or why not, and what to write instead (None: unknown)."""

    word: str
    instead: tuple[str, ...] | _Entry | None
    why: str = ""

    @property
    def field(self) -> str:
        return masked_override(self.word.partition("=")[0] or self.word)


def _shown_instead(instead: tuple[str, ...] | None) -> str:
    if not instead or any(masked_override(word) != word for word in instead):
        return ""
    return f": {shlex.join(instead)}"


@dataclass(frozen=True)
class _Word:
    """A word of the line, and why it stands for several of them; "" where it is one as it was typed."""

    text: str
    split: str = ""


def _whole_words(given: Sequence[str]) -> list[_Word]:
    """The words before a shell took them apart, at blanks or by its braces."""
    found: list[_Word] = []
    rest = list(given)
    while rest:
        word = rest.pop(0)
        tail = []
        while rest and "=" in word and "=" not in rest[0] and not rest[0].startswith(("-", "~")):
            tail.append(rest.pop(0))
        whole = " ".join([word, *tail])
        if tail and (_is_text(_hint(_key(word))) or (_open_brackets(word) and not _open_brackets(whole))):
            found.append(_Word(whole, "a shell splits words at blanks; quote the whole"))
            continue
        alike = [word]
        while rest and _is_part_of_braces(word, rest[0]):
            alike.append(rest.pop(0))
        if len(alike) > 1:
            key, values = word.partition("=")[0], ", ".join(one.partition("=")[2] for one in alike)
            brackets = f"[{values}]" if key.endswith(".choices") else f"{{{values}}}"
            spaced = re.sub(r":(?! )", ": ", brackets)
            found.append(_Word(f"{key}={spaced}", "a shell takes braces apart; quote the whole"))
        else:
            found += map(_Word, [word, *tail])
    return found


def _is_part_of_braces(word: str, following: str) -> bool:
    """Whether a shell has made both words of one with braces, as of space.epochs={low:1,high:3}."""
    (key, _, value), (other, _, others) = word.partition("="), following.partition("=")
    if key != other or "space." not in key:
        return False
    return key.endswith(".choices") or all(re.match(r"\w+:.", one) for one in (value, others))


def _looked_at(word: _Word) -> _Found:
    found = _read(word.text)
    if not word.split or found.instead is None:
        return found
    return _Found(found.word, found.instead, found.why or word.split)


def _read(word: str) -> _Found:
    from hydra.errors import HydraException

    if word.startswith("-"):
        return _option(word)
    if "=" not in word and not word.startswith("~"):
        return _Found(word, None, "is no override (name=value); see python -m sweeper --help")
    if fault := fault_of_hydra(word):
        folder = re.match(r"hydra\.(?:run|sweep)\.dir=(.+)", word)
        return _Found(word, (f"sweep.folder={folder[1]}",) if folder else (), fault.message)
    if not _NAME.fullmatch(word.partition("=")[0]):
        return _Found(word, None, "is no override (name=value); see python -m sweeper --help")
    try:
        parsed = _parse(word)
    except HydraException as error:
        return _unreadable(word, str(error).splitlines()[0])
    if parsed.is_sweep_override():
        return _several(word)
    if (entry := _with_keys_of_others(word, parsed.value())) is not None:
        return _Found(word, entry, _ANOTHER_TOOLS)
    return _Found(word, (_with_text(word, parsed.value()),))


def _parse(word: str) -> "Override":
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word)


def _reads_as(word: str, value: object = ...) -> bool:
    """Whether Hydra can read the word, as this value if there is one."""
    from hydra.errors import HydraException

    try:
        parsed = _parse(word)
    except HydraException:
        return False
    return not parsed.is_sweep_override() and value in (..., parsed.value())


def _unreadable(word: str, reason: str) -> _Found:
    """A word that breaks Hydra's grammar."""
    name, _, raw = word.partition("=")
    hint = _hint(_key(word))
    if (entry := _as_entry(word)) is not None:
        return _Found(word, entry, _ANOTHER_TOOLS)
    whole = word + _open_brackets(word)
    if whole != word and not _is_text(hint):
        if _reads_as(whole):
            return _Found(word, (whole,), "is cut off; write")
        return _Found(word, None, "is cut off: lists and braces must close, and be quoted in a shell")
    if raw.startswith("[") and raw.endswith("]") and not _is_text(hint):
        parts = [one if _reads_as(f"x={one}") else quoted(one) for one in habits.split(raw[1:-1])]
        listed = f"{name}=[{','.join(parts)}]"
        if _reads_as(listed):
            return _Found(word, (listed,), _HAS_SIGNS)
    literal = f"{name}={quoted(raw)}"
    if (raw.startswith(("{", "[")) and not _is_text(hint)) or not _reads_as(literal, raw):
        shown = masked_override(word) == word
        return _Found(word, None, f"can't be read: {reason}" if shown else "can't be read; quote its value")
    # Where no text is wanted, what is wrong is told of the value.
    return _Found(word, (literal,), _HAS_SIGNS if _is_text(hint) else "")


def _several(word: str) -> _Found:
    """Values that Hydra's multirun would go through one after another."""
    name, _, raw = word.partition("=")
    hint = _hint(_key(word))
    entry = _as_entry(word)
    if entry is not None and not (_is_text(hint) and not _key(word).startswith("space.")):
        return _Found(word, entry, _ANOTHER_TOOLS)
    if _is_list(hint) or _key(word).endswith(".choices"):
        return _Found(word, (f"{name}=[{raw}]",), "is a list, which stands in brackets")
    if _is_text(hint):
        return _Found(word, (f"{name}={quoted(raw)}",), _HAS_SIGNS)
    why = "takes one value; what a sweep tries are settings of a trial, under space"
    return _Found(word, None, f"{why} (given: {raw})")


_ANOTHER_TOOLS = "what a sweep tries stands in its space, as a range or as choices"
_HAS_SIGNS = "has signs that mean something in Hydra's grammar; quote the text, and the whole for the shell"


def _as_entry(word: str) -> _Entry | None:
    """What another tool would take for a distribution, if the setting is one of a trial."""
    key, raw = _key(word), word.partition("=")[2].strip()
    if not key.startswith(("trial.", "space.")):
        return None
    name = key.partition(".")[2].removesuffix(".choices")
    if name not in setting_names():
        return None
    form = habits.from_call(raw)
    if form is None and not raw.startswith(("[", "{", "(")) and len(values := habits.split(raw)) > 1:
        form = {"choices": [habits.read(value) for value in values]}
    return _Entry(name, form) if form is not None else None


def _with_keys_of_others(word: str, value: object) -> _Entry | None:
    """An entry of the space with the keys of another tool."""
    name = _key(word).removeprefix("space.")
    if name == _key(word) or name not in setting_names() or not isinstance(value, Mapping):
        return None
    form = habits.from_keys(value) if set(value) - set(ENTRY_KEYS) else None
    return _Entry(name, form) if form is not None else None


def _with_text(word: str, value: object) -> str:
    """The word with a number, a truth value or null quoted where its setting is text."""
    name, is_given, raw = word.partition("=")
    hint = _hint(_key(word))
    if not is_given or not _is_text(hint) or word.startswith("~"):
        return word
    if isinstance(value, (bool, int, float)) or (value is None and raw and type(None) not in _members(hint)):
        return f"{name}={quoted(raw.strip())}"
    if isinstance(value, list) and any(isinstance(one, (bool, int, float)) for one in value):
        parts = habits.split(raw.strip()[1:-1])
        if len(parts) == len(value):
            pairs = zip(parts, value, strict=True)
            every = [quoted(part) if isinstance(one, (bool, int, float)) else part for part, one in pairs]
            return f"{name}=[{','.join(every)}]"
    return word


# Options of Hydra and of other tools


def _option(word: str) -> _Found:
    """A word that begins with a dash: nothing that Hydra's command line has is needed here."""
    name, is_given, value = word.partition("=")
    if is_given and _hint(name.lstrip("-").replace("-", "_")) is not None:
        return _Found(word, (f"{name.lstrip('-').replace('-', '_')}={value}",), "is written without dashes")
    for names, why in _OPTIONS.items():
        if name in names.split():
            return _Found(word, (), why)
    return _Found(word, None, "is no override (name=value); see python -m sweeper --help")


_OPTIONS = {
    "-m --multirun": (
        "is not needed: one command trains all trials of a sweep. What varies stands in its space, such as "
        "'+space.warmup={low: 0.0, high: 0.1}', and how often in budget.trials; leave it out"
    ),
    "-cn --config-name": (
        "is not needed: the root is always conf/config.yaml, and an experiment of yours is "
        "conf/experiment/NAME.yaml, called by +experiment=NAME; leave it out"
    ),
    "-cp --config-path -cd --config-dir": (
        "is not needed: a folder conf/ in the working directory is found by itself; leave it out"
    ),
    "-c --cfg": "goes first: python -m sweeper --cfg OVERRIDE ...; leave it out here",
    "-i --info -p --package -r --run --resolve -sc --shell-completion --hydra-help --experimental-rerun": (
        "is Hydra's own; `python -m sweeper --cfg OVERRIDE ...` prints what is composed; leave it out"
    ),
    "--folder": "is for verbs that take no overrides; here it is sweep.folder=DIR; leave it out",
}


# What a setting takes


def _key(word: str) -> str:
    """The dotted name that a word is about."""
    return word.partition("=")[0].lstrip("+~")


def _hint(name: str) -> Any:
    """The type of a setting; None if there is none of this name, or it is in the space."""
    kind: Any = Config
    for part in name.split("."):
        if not is_dataclass(kind):
            return None
        kind = get_type_hints(kind).get(part)
    return kind


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_text(hint: Any) -> bool:
    """Whether a setting takes any text, or a list of texts."""
    members = [
        inner for one in _members(hint) for inner in (get_args(one) if get_origin(one) is tuple else (one,))
    ]
    return str in members or Path in members


def _is_list(hint: Any) -> bool:
    return any(get_origin(one) is tuple for one in _members(hint))


_CLOSING = {"[": "]", "{": "}", "(": ")"}


def _open_brackets(word: str) -> str:
    """The brackets that close those that the word's value leaves open, outside of its quotes."""
    awaited: list[str] = []
    quote = ""
    for letter in word.partition("=")[2]:
        if quote or letter in "\"'":
            quote = "" if letter == quote else quote or letter
        elif letter in _CLOSING:
            awaited.append(_CLOSING[letter])
        elif awaited and letter == awaited[-1]:
            awaited.pop()
    return "".join(reversed(awaited))
