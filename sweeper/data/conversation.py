"""Conversations: what a row's messages must look like, and how they are kept as text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

RIGHT_FORM = (
    '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}] '
    f"(roles: {', '.join(ROLES)}; at least one assistant turn)"
)

Message = dict[str, Any]
"""`role` and `content`, and what else templates know: `tool_calls`, `tool_call_id`, `name`, reasoning."""

_REASONING = ("reasoning_content", "thinking")
_TEXTS = ("name", "tool_call_id", *_REASONING)
"""Further keys of a message that are kept; they hold text."""


@dataclass(frozen=True)
class Conversation:
    """Messages, and the tools that the assistant may call, as JSON schemas."""

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None

    @classmethod
    def parse(cls, text: str) -> "Conversation":
        """What `text` made. Raises ValueError for any other text."""
        tree = json.loads(text)
        tools = tree["tools"] if isinstance(tree, dict) else None
        return cls(tree["messages"] if isinstance(tree, dict) else tree, tools)

    @property
    def text(self) -> str:
        """As JSON: a list of messages, or, where there are tools, an object with both."""
        with_tools = {"messages": self.messages, "tools": self.tools}
        return json.dumps(self.messages if self.tools is None else with_tools, ensure_ascii=False)


def read_conversation(messages: Any, tools: Any = None) -> tuple[Conversation | None, str]:
    """A row's conversation, or None and what is wrong with it; each may be JSON as text.

    A turn that only calls tools may have no content, and gets an empty one.
    """
    value = _parsed(messages)
    if isinstance(value, Mapping) and tools is None:
        tools = value.get("tools")
        value = value.get("messages")
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        return None, "is no list of messages"
    read: list[Message] = []
    for number, message in enumerate(value):
        one, fault = _message(message)
        if fault:
            return None, f"message {number + 1} {fault}"
        read.append(one)
    if not any(message["role"] == "assistant" for message in read):
        return None, "has no assistant turn"
    known = _parsed(tools)
    if known is None and isinstance(tools, str) and tools.strip().startswith(("[", "{")):  # else it is a text
        return None, "has tools that are no JSON"
    if known is not None and not (isinstance(known, list) and all(isinstance(t, Mapping) for t in known)):
        return None, "has tools that are no list of JSON schemas"
    return Conversation(read, known or None), ""


def check_messages(value: Any) -> Sequence[Message] | None:
    """The messages of a conversation, with the keys alone that are of use; None if they are malformed."""
    found, _ = read_conversation(value)
    return None if found is None else found.messages


def calls_of(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and arguments of every tool call of a message."""
    said = ((call.get("function"), call) for call in message.get("tool_calls") or ())
    functions = [function if isinstance(function, Mapping) else call for function, call in said]
    return [(str(function.get("name") or ""), function.get("arguments")) for function in functions]


def beside_content(message: Message, change: Callable[[str], str]) -> Message:
    """The message with the texts changed that it has beside its content: reasoning, and strings in calls.

    Arguments that are JSON as text stay JSON: strings within are changed, keys and numbers are not.
    """
    changed: Message = {name: change(message[name]) for name in _REASONING if name in message}
    if "tool_calls" in message:
        changed["tool_calls"] = [_with_arguments(call, change) for call in message["tool_calls"]]
    return message | changed


def _with_arguments(call: Mapping[str, Any], change: Callable[[str], str]) -> Mapping[str, Any]:
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "function": _with_arguments(function, change)}
    given = call.get("arguments")
    if not isinstance(given, str):
        return {**call, "arguments": _changed(given, change)} if "arguments" in call else call
    tree = _parsed(given)
    if not isinstance(tree, dict | list):
        return {**call, "arguments": change(given)}
    after = _changed(tree, change)
    return call if after == tree else {**call, "arguments": json.dumps(after, ensure_ascii=False)}


def _changed(tree: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tree, Mapping):
        return {name: _changed(value, change) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_changed(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree


def tool_names(tools: Sequence[Any] | None) -> list[str]:
    """What the tools of a row are called."""
    return [name for tool in tools or () for name, _ in calls_of({"tool_calls": [tool]})]


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _message(given: Mapping[str, Any]) -> tuple[Message, str]:
    role, content, calls = given.get("role"), given.get("content"), given.get("tool_calls")
    if role not in ROLES:
        return {}, "has no role" if role is None else f"has the role {str(role)[:40]!r}"
    kept = {name: given[name] for name in _TEXTS if isinstance(given.get(name), str)}
    if role == "assistant" and given.get("weight") == 0:
        return {}, f"({role}) has weight 0, and turns without loss can't be told apart here"
    if not calls and isinstance(given.get("function_call"), Mapping):  # how one call was once written
        calls = [{"type": "function", "function": given["function_call"]}]
        given = {**given, "tool_calls": calls}
    if calls and role == "assistant":
        if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
            return {}, f"({role}) has tool_calls that are no list of calls"
        if not all(name for name, _ in calls_of(given)):
            return {}, f"({role}) has a tool call without a name"
        kept["tool_calls"] = calls
        content = "" if content is None else content
    if not isinstance(content, str):
        return {}, f"({role}) has {'no' if content is None else f'a {type(content).__name__} as'} content"
    if not content.strip() and "tool_calls" not in kept and role not in ("tool", "function"):
        return {}, f"({role}) has an empty content"
    return {"role": role, "content": content} | kept, ""
