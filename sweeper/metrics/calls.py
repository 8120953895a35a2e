"""Tool calls in what an assistant writes, by the forms that chat templates give them.

    <tool_call>{"name": ..., "arguments": {...}}</tool_call>     Hermes, Qwen, SmolLM3, Granite; once per call
    <|tool_call|>[{"name": ..., "arguments": {...}}]             Granite, Phi
    [TOOL_CALLS][{"name": ..., "arguments": {...}}]              Mistral
    [TOOL_CALLS]name[ARGS]{...}                                  Mistral, later models; once per call
    {"name": ..., "parameters": {...}}                           Llama 3, which writes nothing else

A reference that a template has rendered and an answer that a model has written are read by the same rules.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_OPENING = re.compile(r"<tool_call>|<\|tool_call\|>|\[TOOL_CALLS\]")
_AFTER = re.compile(r"\s*(?:[<\[]|$)")
"""What may follow the JSON of a call: what closes it, the next one, or nothing."""
_NAMED = re.compile(r"\s*([\w.:/-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?(?:\[ARGS\]\s*)?(?=\{)")
_BETWEEN = re.compile(r"[\s;,]*")
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True)
class Call:
    """A tool that is called."""

    name: str
    arguments: str
    """As JSON with its keys in order, so that equal arguments are equal texts."""


def read_calls(text: str) -> tuple[Call, ...] | None:
    """The calls in a text, in order; none where it has none, None where one of them can't be read.

    >>> read_calls('Let me look. <tool_call>{"name": "add", "arguments": {"b": 2, "a": 1.0}}</tool_call>')
    (Call(name='add', arguments='{"a": 1, "b": 2}'),)
    >>> read_calls("Nothing is called.")
    ()
    """
    said = text
    for mark in ("</think>", "<|python_tag|>"):  # thoughts call nothing
        said = said.partition(mark)[2] or said
    try:
        return _bare(said) or tuple(_marked(said))
    except (ValueError, RecursionError):
        return None


def _marked(said: str) -> Iterator[Call]:
    """The calls behind their marks. Raises ValueError if something else stands there."""
    opening = _OPENING.search(said)
    while opening is not None:
        at = opening.end()
        if named := _NAMED.match(said, at):
            arguments, at = _value(said, named.end())
            yield _call(named[1], arguments)
        else:
            value, at = _value(said, at)
            yield from _calls(value)
        if not _AFTER.match(said, at):
            raise ValueError("no end")
        opening = _OPENING.search(said, at)  # a mark within an argument is none


def _bare(said: str) -> tuple[Call, ...]:
    """Calls of a text that is nothing but calls; else none."""
    found: list[Call] = []
    at = len(said) - len(said.lstrip())
    while at < len(said.rstrip()):
        try:
            value, at = _value(said, at)
            every = value if isinstance(value, list) else [value]
            if not all(isinstance(one, dict) and any(name in one for name in _ARGUMENTS) for one in every):
                return ()
            found += _calls(value)
        except ValueError:
            return ()
        separator = _BETWEEN.match(said, at)
        at = at if separator is None else separator.end()
    return tuple(found)


def _calls(value: Any) -> Iterator[Call]:
    """The calls that a JSON value describes. Raises ValueError if it describes something else."""
    for one in value if isinstance(value, list) else [value]:
        call = one.get("function", one) if isinstance(one, dict) else None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
            raise ValueError("no call")
        yield _call(call["name"], next((call[key] for key in _ARGUMENTS if key in call), {}))


def _call(name: str, arguments: Any) -> Call:
    if isinstance(arguments, str):  # some templates write them as JSON within JSON
        with suppress(ValueError):  # else a text as any other
            arguments = json.loads(arguments or "{}", parse_constant=_refuse)
    return Call(name, json.dumps(_plain({} if arguments is None else arguments), sort_keys=True))


def _value(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins here, and where it ends. Raises ValueError if there is none."""
    while at < len(text) and text[at].isspace():
        at += 1
    found: tuple[Any, int] = _DECODER.raw_decode(text, at)
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse, strict=False)


def _plain(value: Any) -> Any:
    """Numbers that JSON takes for the same, as the same."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
