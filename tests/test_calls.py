"""Tool calls in conversations: counted, with unknown tools and arguments that nothing can read."""

import json

import pytest

from sweeper.data.checks.calls import Calls
from sweeper.data.conversation import Conversation, check_messages, read_conversation
from sweeper.data.findings import Batch

TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def call(name, arguments):
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def found(*messages, tools=TOOLS):
    texts = [Conversation([{"role": "user", "content": "a"}, message], tools).text for message in messages]
    check = Calls()
    ids = [f"{i:016x}" for i in range(len(texts))]
    check.see(Batch(0, ids, ["train"] * len(ids), texts, [""] * len(ids), [""] * len(ids)))
    return {one.check: one for one in check.findings()}


def test_calls_are_counted_and_what_is_wrong_with_them_is_named():
    said = {"role": "assistant", "content": "b"}
    told = found(said, call("weather", '{"a": 1}'), call("wether", {}), call("weather", "a=1"))
    assert told["tool calls"].message == "3 tool calls in 3 of 4 conversations"
    assert told["unknown tools"].count == 1
    assert told["unknown tools"].examples[0].text == "wether; it has weather"
    assert told["broken arguments"].count == 1
    assert told["broken arguments"].suspects == (("0000000000000003", 0.9),)
    assert found(said) == {}
    assert list(found(call("anything", {}), tools=None)) == ["tool calls"]


def test_calls_may_have_no_content_and_keep_what_templates_know():
    messages = [
        {"role": "user", "content": "a", "weight": 1},
        call("weather", "{}"),
        {"role": "tool", "content": "", "tool_call_id": "1", "name": "weather"},
        {"role": "assistant", "content": "b", "reasoning_content": "c", "tool_calls": None},
    ]
    kept = check_messages(messages)
    assert kept[0] == {"role": "user", "content": "a"}
    assert kept[1]["content"] == ""
    assert kept[1]["tool_calls"] == messages[1]["tool_calls"]
    assert kept[2] == messages[2]
    assert kept[3] == {"role": "assistant", "content": "b", "reasoning_content": "c"}
    both, _ = read_conversation(messages, json.dumps(TOOLS))
    assert Conversation.parse(both.text) == both
    assert read_conversation(both.text)[0] == both


@pytest.mark.parametrize(
    ("messages", "tools", "why"),
    [
        ("{}", None, "is no list of messages"),
        ([{"role": "assistant", "content": None}], None, "message 1 (assistant) has no content"),
        ([{"role": "assistant", "content": ["a"]}], None, "message 1 (assistant) has a list as content"),
        ([{"role": "user", "content": " "}], None, "message 1 (user) has an empty content"),
        ([{"content": "a"}], None, "message 1 has no role"),
        ([{"role": "user", "content": "a"}], None, "has no assistant turn"),
        ([call("", {})], None, "message 1 (assistant) has a tool call without a name"),
        (
            [call("a", {}) | {"tool_calls": "a"}],
            None,
            "message 1 (assistant) has tool_calls that are no list of calls",
        ),
        ([call("a", {})], "weather", None),
        ([call("a", {})], [1], "has tools that are no list of JSON schemas"),
    ],
)
def test_what_is_wrong_with_a_conversation_is_said(messages, tools, why):
    conversation, told = read_conversation(messages, tools)
    assert (conversation is None, told) == (why is not None, why or "")
