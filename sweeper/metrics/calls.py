"""Tool calls in what an assistant writes, by the forms that chat templates give them.

    <tool_call>{"name": ..., "arguments": {...}}</tool_call>     Hermes, Qwen, SmolLM3, Granite; once per call
    <|tool_call|>[{"name": ..., "arguments": {...}}]             Granite, Phi
    [TOOL_CALLS][{"name": ..., "arguments": {...}}]              Mistral
    [TOOL_CALLS]name[ARGS]{...}                                  Mistral, later models; once per call
    {"name": ..., "parameters": {...}}                           Llama 3, which writes nothing else
    <tool_call><function=name><parameter=key>value</parameter></function></tool_call>         Qwen3-Coder
    <tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>             GLM 4.5
    name{...} or name and fenced JSON, between tokens of its own   DeepSeek 3.1; 3 and R1

A reference that a template has rendered and an answer that a model has written are read by the same rules.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_OPENING = re.compile(r"<tool_call>|<\|tool_call\|>|\[TOOL_CALLS\]|<\uff5ctool▁call▁begin\uff5c>")
_AFTER = re.compile(r"\s*(?:[<\[`]|$)")
"""What may follow the JSON of a call: what closes it, the next one, or nothing."""
_TAGGED = re.compile(
    r"\s*<function=(?P<name>[^>\n]+)>(?P<arguments>.*?)</function>"
    r"|\s*(?P<glm>[\w.:/-]+)(?:\n|(?=<arg_key>))\s*(?P<pairs>(?:<arg_key>.*?</arg_value>\s*)*)(?=</tool_call>)",
    re.DOTALL,
)
"""Arguments between tags of their own."""
_PAIR = re.compile(
    r"<parameter=(?P<key>[^>\n]+)>(?P<value>.*?)</parameter>"
    r"|<arg_key>(?P<arg_key>.*?)</arg_key>\s*<arg_value>(?P<arg_value>.*?)</arg_value>",
    re.DOTALL,
)
_SEPARATED = re.compile(
    r"\s*(?:function<\uff5ctool▁sep\uff5c>(?P<fenced>[^\n<]+)\n```json\s*|(?P<plain>[^\n<]+)<\uff5ctool▁sep\uff5c>)"
)
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
        if tagged := _TAGGED.match(said, at):
            yield _call((tagged["name"] or tagged["glm"]).strip(), _tagged_arguments(tagged))
            at = tagged.end()
        elif separated := _SEPARATED.match(said, at):
            arguments, at = _value(said, separated.end())
            yield _call((separated["fenced"] or separated["plain"]).strip(), arguments)
        elif named := _NAMED.match(said, at):
            arguments, at = _value(said, named.end())
            yield _call(named[1], arguments)
        else:
            value, at = _value(said, at)
            yield from _calls(value)
        if not _AFTER.match(said, at):
            raise ValueError("no end")
        opening = _OPENING.search(said, at)  # a mark within an argument is none


def _tagged_arguments(tagged: re.Match[str]) -> dict[str, Any]:
    """Values that are JSON as such, others as the texts that they are, without the line ends around them."""
    found: dict[str, Any] = {}
    for pair in _PAIR.finditer(tagged["arguments"] or tagged["pairs"] or ""):
        key, value = pair["key"] or pair["arg_key"], pair["value"] or pair["arg_value"] or ""
        value = value.removeprefix("\n").removesuffix("\n")
        found[key.strip()] = value
        with suppress(ValueError):
            found[key.strip()] = json.loads(value, parse_constant=_refuse)
    return found


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
