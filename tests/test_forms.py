import json
from dataclasses import replace

import pytest

from sweeper.compose import compose, read_config
from sweeper.data.forms import conversation, recognise, settle
from sweeper.data.sources import load, peek
from sweeper.errors import DataError
from sweeper.inputs import fingerprint, settled
from sweeper.layout import Layout, write_atomically
from sweeper.stored import as_yaml, public
from tests.rows import configure, write_jsonl

OPENAI = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
PAIR = {"prompt": "a", "completion": "b"}
SHAREGPT = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day"}]
ALPACA = "{instruction}{#input}\n\n{input}{/input}"

FORMS = [
    ({"messages": OPENAI, "id": 1}, ("chat",), {"messages": "messages"}, ""),
    ({"messages": json.dumps(OPENAI)}, ("chat",), {"messages": "messages"}, ""),
    ({"conversations": SHAREGPT, "system": "Be kind."}, ("chat",), {"messages": "conversations"}, ""),
    ({"conversations": OPENAI}, ("chat",), {"messages": "conversations"}, ""),
    ({"prompt": "Hello", "completion": "Hi"}, ("generate",), {"input": "prompt", "target": "completion"}, ""),
    ({"prompt": OPENAI[:1], "completion": OPENAI[1:]}, ("chat",), {"messages": "prompt+completion"}, ""),
    ({"instruction": "Add", "input": "", "output": "3"}, ("generate",), {"target": "output"}, ALPACA),
    ({"instruction": "Add", "output": "3"}, ("generate",), {"target": "output"}, "{instruction}"),
    (
        {"instruction": "Who?", "context": "Ada", "response": "Ada", "category": "qa"},
        ("generate",),
        {"target": "response"},
        "{instruction}{#context}\n\n{context}{/context}",
    ),
    ({"question": "1+1", "answer": "2"}, ("generate",), {"input": "question", "target": "answer"}, ""),
    ({"input": "a", "target": "b"}, ("generate", "classify"), {"input": "input", "target": "target"}, ""),
    ({"text": "a", "label": 1}, ("classify",), {"input": "text", "target": "label"}, ""),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, (), {}, ""),
    ({"text": "all of it"}, (), {}, ""),
]


@pytest.mark.parametrize(("row", "kinds", "options", "prompt"), FORMS)
def test_forms_are_recognised_by_their_columns(row, kinds, options, prompt):
    found = recognise([dict.fromkeys(row), row])
    assert (found.kinds, dict(found.options), found.prompt) == (kinds, options, prompt)


@pytest.mark.parametrize("row", [{"a": "x", "b": "y"}, {"messages": "hello", "n": 1}, {"messages": []}, {}])
def test_other_columns_are_no_form(row):
    assert recognise([row]) is None


def open_config(kind, *overrides):
    experiment = {"generate": "generate", "classify": "classify", "chat": "instruct"}[kind]
    data = ["data=file"] if kind == "classify" else []
    return read_config(compose([f"+experiment={experiment}", *data, "data.path=rows.jsonl", *overrides]))[0]


def test_what_is_open_is_filled_and_said():
    config, said = settle(
        open_config("generate"), [{"id": 1, "prompt": "a", "completion": "b"}], "rows.jsonl"
    )
    assert (config.data.input, config.data.target, config.task.prompt) == ("prompt", "completion", "{input}")
    assert said == (
        "rows.jsonl is read as an input and an answer (`prompt`, `completion`): data.input=prompt "
        "data.target=completion; not used: id"
    )
    config, said = settle(open_config("chat"), [{"conversations": SHAREGPT}], "rows.jsonl")
    assert config.data.messages == "conversations"
    assert "ShareGPT's form (`conversations`): data.messages=conversations" in said
    _, said = settle(open_config("chat"), [{"messages": OPENAI, "tools": [], "id": 1}], "rows.jsonl")
    assert said.endswith("data.messages=messages; not used: id"), "the tools are, by data.tools"
    alpaca = {"instruction": "a", "input": "b", "output": "c"}
    config, said = settle(open_config("generate"), [alpaca], "rows.jsonl")
    assert (config.data.input, config.data.target, config.task.prompt) == (None, "output", ALPACA)
    assert 'task.prompt="{instruction}{#input}\\n\\n{input}{/input}"' in said


def test_what_is_configured_stays():
    config = open_config("generate", "data.input=a", "data.target=b")
    assert settle(config, [PAIR], "rows")[0].data == config.data
    row = {"instruction": "a", "input": "b", "output": "c"}
    config, _ = settle(open_config("generate", "data.input=instruction"), [row], "rows")
    assert (config.data.input, config.data.target, config.task.prompt) == ("instruction", "output", "{input}")


MISFITS = [
    (
        "generate",
        {"conversations": SHAREGPT},
        r"ShareGPT's form .*\+experiment=instruct data\.path=rows",
    ),
    (
        "chat",
        PAIR,
        r"does not fit task\.kind=chat: .*\+experiment=generate data",
    ),
    (
        "generate",
        {"text": "a", "label": "b"},
        r"what fits is \+experiment=classify data=file",
    ),
    ("generate", {"text": "a"}, r"a text alone .* divide each into two columns"),
    (
        "generate",
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        r"by data\.input=prompt data\.target",
    ),
    ("chat", {"chosen": OPENAI, "rejected": OPENAI}, r"are taken by data\.messages=chosen\."),
    (
        "generate",
        {"chosen": OPENAI, "rejected": OPENAI},
        r"by \+experiment=instruct data\.path=rows\.jsonl data\.messages=chosen",
    ),
    ("generate", {"a": "x", "b": "y"}, r"data\.input, data\.target: name the columns .*rows has: a, b"),
    ("chat", {"a": "x"}, r"data\.messages: name the column of the rows for task\.kind=chat; rows has: a"),
    (
        "chat",
        {"messages": OPENAI, "images": [1]},
        r"has images beside .*on purpose: data\.messages",
    ),
]


@pytest.mark.parametrize(("kind", "row", "message"), MISFITS)
def test_a_form_that_does_not_fit_says_what_does(kind, row, message):
    with pytest.raises(DataError, match=message):
        settle(open_config(kind), [row], "rows")


def test_a_prompt_for_one_column_does_not_fit_alpacas_form():
    config = read_config(compose(["+experiment=summarize", "data=file", "data.path=rows.jsonl"]))[0]
    with pytest.raises(DataError, match=r"one column alone; \+experiment=generate .*data\.input=instruction"):
        settle(config, [{"instruction": "a", "input": "b", "output": "c"}], "rows")


def user(content):
    return {"role": "user", "content": content}


CONVERSATIONS = [
    (OPENAI, OPENAI),
    (SHAREGPT, OPENAI),
    (json.dumps(SHAREGPT), OPENAI),
    ("no messages", "no messages"),
    (None, None),
    ([{"from": "bing", "value": "Hi"}], [{"role": "bing", "content": "Hi"}]),
    ([{"role": "human", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
    (f"\n{json.dumps(SHAREGPT)}", OPENAI),
    ("[no messages", "[no messages"),
    ([{"from": "observation", "value": "4"}], [{"role": "tool", "content": "4"}]),
    (
        [{"role": "user", "content": [{"type": "text", "text": "a "}, "b"]}],
        [{"role": "user", "content": "a b"}],
    ),
    (
        [{"from": "function_call", "value": '{"name": "add", "arguments": "{\\"a\\": 1}"}'}],
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
            }
        ],
    ),
    ([{"from": "function_call", "value": "add(1)"}], [{"role": "assistant", "content": "add(1)"}]),
]


@pytest.mark.parametrize(("given", "wanted"), CONVERSATIONS)
def test_conversations_get_the_roles_and_contents_of_templates(given, wanted):
    assert conversation(given) == wanted


def test_rows_are_given_in_one_form(tmp_path):
    parts = {"prompt": SHAREGPT[:1], "completion": SHAREGPT[1:]}
    path = write_jsonl(tmp_path / "rows.jsonl", [parts])
    config = configure(path, "chat", messages="prompt+completion")
    assert [row["prompt+completion"] for row in load(config.data).parts["train"].rows()] == [OPENAI]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]}]
    write_jsonl(path, [{"messages": OPENAI}, {"messages": image}])
    with pytest.raises(DataError, match=r"row 2 of rows\.jsonl has a part .* 'image_url'; text alone"):
        list(load(configure(path, "chat", messages="messages").data).parts["train"].rows())


def test_answers_that_are_objects_are_written_as_json_when_asked_for(tmp_path):
    path = write_jsonl(
        tmp_path / "rows.jsonl", [{"text": "a", "answer": {"é": 1}}, {"text": "b", "answer": "c"}]
    )
    config = configure(path, target_format="json")
    assert [row["answer"] for row in load(config.data).parts["train"].rows()] == ['{"é": 1}', "c"]
    plain = configure(path)
    assert [row["answer"] for row in load(plain.data).parts["train"].rows()] == [{"é": 1}, "c"]


def test_a_sweep_that_has_begun_keeps_its_columns(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"input": "a", "target": "b"}])
    config = open_config("generate")
    config = replace(
        config, data=replace(config.data, path=path), sweep=replace(config.sweep, folder=tmp_path)
    )
    layout = Layout(tmp_path, config.sweep.name)
    begun, said = settled(config, layout)
    assert (begun.data.input, begun.data.target) == ("input", "target")
    assert said
    write_atomically(layout.config, as_yaml(public(begun)))
    path.unlink()
    assert settled(config, layout) == (begun, "")


def test_columns_of_their_own_make_the_sweep_that_naming_them_makes(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"messages": OPENAI}])
    begun = read_config(compose(["+experiment=instruct", f"data.path={path}", "data.messages=messages"]))
    config, space = read_config(compose(["+experiment=instruct", f"data.path={path}"]))
    found, _ = settle(config, *peek(config.data))
    assert fingerprint(found, space) == fingerprint(*begun)
    assert "target_format" not in fingerprint(*begun)["data"]
    assert "column" not in fingerprint(*begun)["data"]["parts"]
