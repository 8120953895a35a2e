"""Tool calls in texts, in the forms of the templates that write them."""

import json

import pytest

from sweeper.data.encode import IGNORED, Encoder, Text
from sweeper.metrics.calls import Call, read_calls
from tests.rows import configure
from tests.templates import CALLING, CALLING_WITH_TEXT, TEMPLATES, pairs_tokenizer

ADD = Call("add", '{"a": 1, "b": 2}')
NOW = Call("now", "{}")
PYTHON = Call("run", '{"code": "d = {\\"a\\": [1, {}]}\\nprint(\\"</tool_call>\\", \'<tool_call>\')"}')
WRITTEN = '{"name": "add", "arguments": {"a": 1, "b": 2}}'


def wide(text):
    """With the wide bars that DeepSeek's special tokens have."""
    return text.replace("|", "\uff5c")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        # Hermes, Qwen, SmolLM3
        (f"<tool_call>\n{WRITTEN}\n</tool_call>", (ADD,)),
        (f"Let me see.\n<tool_call>{WRITTEN}</tool_call>\nDone.", (ADD,)),
        (
            f'<tool_call>{WRITTEN}</tool_call>\n<tool_call>{{"name": "now", "arguments": {{}}}}</tool_call>',
            (ADD, NOW),
        ),
        ('<tool_call>{"name": "now", "arguments": null}</tool_call>', (NOW,)),
        ('<tool_call>{"name": "now"}</tool_call>', (NOW,)),
        (f"<tool_call>{WRITTEN}", (ADD,)),  # its end was left away
        # Granite, Phi
        (f"<|tool_call|>[{WRITTEN}]<|/tool_call|>", (ADD,)),
        (f"<tool_call>[{WRITTEN}]", (ADD,)),
        # Mistral
        (f'[TOOL_CALLS] [{WRITTEN}, {{"name": "now", "arguments": {{}}, "id": "abcdefghi"}}]', (ADD, NOW)),
        ('[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]now[ARGS]{}', (ADD, NOW)),
        ('[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{"a": 1, "b": 2}', (ADD,)),
        ('[TOOL_CALLS]add{"a": 1, "b": 2}', (ADD,)),
        # Llama 3
        ('{"name": "add", "parameters": {"a": 1, "b": 2}}', (ADD,)),
        (' {"type": "function", "name": "add", "parameters": {"a": 1, "b": 2}}\n', (ADD,)),
        (f"<|python_tag|>{WRITTEN}", (ADD,)),
        (f'{WRITTEN}; {{"name": "now", "parameters": {{}}}}', (ADD, NOW)),
        # Qwen3-Coder
        (
            "Well.\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n"
            "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            (ADD, NOW),
        ),
        (
            "<tool_call>\n<function=run>\n<parameter=code>\nx = 1\n\nif x:\n    y()\n</parameter>\n"
            "</function>\n</tool_call>",
            (Call("run", '{"code": "x = 1\\n\\nif x:\\n    y()"}'),),
        ),
        ("<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n", None),  # has no end
        # GLM 4.5
        (
            "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n"
            "<arg_value>2</arg_value>\n</tool_call><tool_call>now\n</tool_call>",
            (ADD, NOW),
        ),
        (
            "<tool_call>say<arg_key>to</arg_key><arg_value>Ann</arg_value></tool_call>",
            (Call("say", '{"to": "Ann"}'),),
        ),
        # DeepSeek 3 and R1, then 3.1
        (
            wide(
                "<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>add\n```json\n"
                '{"a": 1, "b": 2}\n```<|tool▁call▁end|>\n<|tool▁call▁begin|>function<|tool▁sep|>now\n'
                "```json\n{}\n```<|tool▁call▁end|><|tool▁calls▁end|>"
            ),
            (ADD, NOW),
        ),
        (
            wide(
                '<|tool▁calls▁begin|><|tool▁call▁begin|>add<|tool▁sep|>{"a": 1, "b": 2}'
                "<|tool▁call▁end|><|tool▁call▁begin|>now<|tool▁sep|>{}<|tool▁call▁end|>"
                "<|tool▁calls▁end|>"
            ),
            (ADD, NOW),
        ),
        # and what is left of marks that are special tokens, which decoding may drop
        (f'[{WRITTEN}, {{"name": "now", "arguments": {{}}}}]', (ADD, NOW)),
        # OpenAI's own form
        (f'<tool_call>{{"type": "function", "function": {WRITTEN}}}</tool_call>', (ADD,)),
        (f'<tool_call>{{"name": "run", "arguments": {PYTHON.arguments}}}</tool_call>', (PYTHON,)),
        (f'<think>First <tool_call> something.</think>\n<tool_call>{WRITTEN}</tool_call>', (ADD,)),
        # no calls
        ("", ()),
        ("4", ()),
        ("Add them up.", ()),
        ('{"a": 1}', ()),
        ('{"name": "Ann"}', ()),
        ('[1, 2, {"name": "add", "arguments": {}}]', ()),
        (f"Say {WRITTEN}", ()),
        (f"{WRITTEN} is what I'd call", ()),
        ("[]", ()),
        ("{" * 100_000, ()),
        # marks without calls that can be read
        ("<tool_call>", None),
        ("<tool_call></tool_call>", None),
        ("<tool_call>add(1, 2)</tool_call>", None),
        ('<tool_call>{"name": "add", "arguments": {"a": 1,</tool_call>', None),
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}}</tool_call>', None),
        ("<tool_call>{'name': 'add', 'arguments': {}}</tool_call>", None),
        ('<tool_call>{"arguments": {"a": 1}}</tool_call>', None),
        ('<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', None),
        ('<tool_call>["add"]</tool_call>', None),
        (f"<tool_call>{WRITTEN}</tool_call><tool_call>oh</tool_call>", None),
        ("[TOOL_CALLS]add[ARGS]", None),
        ("[TOOL_CALLS]" + "[" * 100_000, None),
    ],
)  # fmt: skip
def test_calls_are_read_in_every_form(text, calls):
    assert read_calls(text) == calls


def of(arguments: str) -> Call:
    found = read_calls(f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>')
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ('{"a": 1, "b": {"c": 2, "d": 3}}', '{"b": {"d": 3, "c": 2}, "a": 1}', True),
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": "é"}', '{"a": "\\u00e9"}', True),
        (json.dumps('{"a": 1}'), '{"a": 1}', True),
        ('"not json"', '"not json"', True),
        ('"not json"', '"nor this"', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": null}', "{}", False),
        ('{"a": "x "}', '{"a": "x"}', False),
    ],
)
def test_arguments_are_compared_as_json_values(one, other, is_same):
    assert (of(one) == of(other)) == is_same


def after(family: str, mark: str, calls: str) -> str:
    """The template of a family, that writes `calls` of a turn behind what is said there."""
    template, _ = TEMPLATES[family]
    written = f"{{% if m.tool_calls %}}{mark}{calls}{{% endif %}}"
    return template.replace("{{ m.content }}", "{{ m.content }}" + written).replace(
        "{{ m.content | trim }}", "{{ m.content | trim }}" + written
    )


_EACH = "{% for c in m.tool_calls %}{% set f = c.function %}"
_LIST = (
    f"[{_EACH}" + '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "abcdefghi"}'
    "{{ '' if loop.last else ', ' }}{% endfor %}]"
)
_LLAMA = '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
_LATER = "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}"
CALLERS = {
    "qwen": CALLING,
    "hermes": CALLING_WITH_TEXT,
    "llama3": after("llama3", "", f"{_EACH}{_LLAMA}{{% endfor %}}"),
    "mistral": after("mistral", "[TOOL_CALLS] ", _LIST),
    "mistral later": after("mistral", "", f"{_EACH}{_LATER}{{% endfor %}}"),
    "phi": after("phi", "<|tool_call|>", f"{_LIST}<|/tool_call|>"),
}


@pytest.mark.parametrize("said", ["", "I look it up."])
@pytest.mark.parametrize("family", CALLERS)
def test_templates_write_calls_that_are_read_again(family, said):
    """From a row's tool_calls to its answer, and to the tokens that a model learns to write."""
    arguments = {"where": 'in "Zürich" {or} <tool_call>', "days": [1, 2.5], "exact": True}
    calls = [{"type": "function", "function": {"name": "weather", "arguments": arguments}}]
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": said, "tool_calls": calls},
    ]
    words = pairs_tokenizer(CALLERS[family])
    task = configure(None, "chat", task={"max_input_tokens": 900, "max_answer_tokens": 100}).task
    found = Encoder(task, words, "causal").encode(Text(json.dumps(messages), ""))
    wanted = read_calls(found.answer)
    if family == "llama3" and said:
        assert not wanted, "Llama writes either a text or a call"
        return
    assert wanted is not None
    assert [(one.name, json.loads(one.arguments)) for one in wanted] == [("weather", arguments)]
    learned = words.decode([label for label in found.labels if label != IGNORED][:-1])
    assert read_calls(learned) == wanted
