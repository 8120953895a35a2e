"""What is read of a row's messages and tools, and what is refused by name."""

import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from sweeper.data import readers
from sweeper.data.conversation import calls_of, read_conversation, tool_names

USER = {"role": "user", "content": "Where is it warm?"}


def calling(arguments, name="weather"):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_arguments_from_a_table_have_the_keys_that_somebody_wrote(tmp_path):
    rows = [{"messages": [USER, calling(one)]} for one in ({"city": "Paris"}, {"amount": 3})]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [
        calls_of(read_conversation(row["messages"])[0].messages[1])
        for row in readers.read(tmp_path / "rows.parquet", lambda names: None, None)
    ]
    assert found == [[("weather", {"city": "Paris"})], [("weather", {"amount": 3})]]


def test_a_function_call_is_a_tool_call():
    told = {
        "role": "assistant",
        "content": "Let me look",
        "function_call": {"name": "get", "arguments": "{}"},
    }
    conversation, fault = read_conversation([USER, told])
    assert fault == ""
    assert calls_of(conversation.messages[1]) == [("get", "{}")]
    assert conversation.messages[1]["content"] == "Let me look"


@pytest.mark.parametrize(
    ("answer", "tools", "fault"),
    [
        ({"role": "assistant", "content": "bad", "weight": 0}, None, "message 2 (assistant) has weight 0"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"function": "get", "arguments": {}}]},
            None,
            "message 2 (assistant) has a tool call without a name",
        ),
        ({"role": "assistant", "content": "fine"}, "[{'name': 'get'}]", "has tools that are no JSON"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(answer, tools, fault):
    conversation, told = read_conversation([USER, answer], tools)
    assert conversation is None
    assert told.startswith(fault)


@pytest.mark.parametrize("tools", [None, "", " ", "null", "[]", []])
def test_no_tools_are_none(tools):
    conversation, fault = read_conversation(
        json.dumps([USER, {"role": "assistant", "content": "fine"}]), tools
    )
    assert (conversation.tools, fault) == (None, "")


def test_a_tool_that_is_not_described_has_no_name():
    assert tool_names([{"function": "get"}, {"name": "find"}]) == ["", "find"]
