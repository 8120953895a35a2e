"""What a row says is what is learned: text in, decoded tokens out, for the templates that models have."""

import copy
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer

from sweeper.data.encode import IGNORED, Encoder, Text, Unusable
from sweeper.models.templates import special_ids, turn_end
from tests.rows import configure
from tests.templates import (
    CALLING,
    CALLING_WITH_TEXT,
    REASONER,
    SPECIAL,
    TEMPLATES,
    pairs_tokenizer,
)

WIDE = {"max_input_tokens": 5000, "max_answer_tokens": 5000}

pieces = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        [*SPECIAL, "    return x\n", "\n\n", " ", "the user", "\ue000", "<|im_", "end|>", "{input}"]
    ),
)
texts = st.lists(pieces, min_size=1, max_size=5).map("".join).filter(str.strip)
several = settings(max_examples=25, deadline=None, database=None)
families = pytest.mark.parametrize("family", TEMPLATES)


def encoder(kind, template, architecture="causal", **task):
    return Encoder(configure(None, kind, task=WIDE | task).task, pairs_tokenizer(template), architecture)


def learned(found, template=None):
    words = pairs_tokenizer(template)
    return words.decode([label for label in found.labels if label != IGNORED])


def controls(ids):
    """The special tokens among `ids`, as text."""
    words = pairs_tokenizer()
    return [words.convert_ids_to_tokens(i) for i in ids if i in special_ids(words)]


@families
@several
@given(question=texts, answer=texts)
@example(question="a", answer="    return x\n")
def test_an_answer_is_learned_as_it_is_and_ends_as_the_template_ends_a_turn(family, question, answer):
    template, end = TEMPLATES[family]
    plain = encoder("generate", template, prompt="{input}", chat_template=True).encode(Text("a", "b"))
    found = encoder("generate", template, prompt="{input}", chat_template=True).encode(Text(question, answer))
    begins = " " if family == "mistral" else ""  # the template's own
    assert learned(found) == f"{begins}{answer}{end}"
    assert controls(found.input_ids) == controls(plain.input_ids)
    assert question.strip() in found.prompt
    assert pairs_tokenizer().decode(found.prompt_ids) == found.prompt
    assert found.input_ids[: len(found.prompt_ids)] == found.prompt_ids


@families
@several
@given(said=st.lists(texts, min_size=2, max_size=6).filter(lambda said: len(said) % 2 == 0))
def test_every_turn_of_the_assistant_is_learned_as_the_template_has_it(family, said):
    template, end = TEMPLATES[family]
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
    found = encoder("chat", template).encode(Text(json.dumps(messages), ""))
    plain = [m | {"content": "x"} for m in messages]
    simple = encoder("chat", template).encode(Text(json.dumps(plain), ""))
    begins = " " if family == "mistral" else ""
    trims = family in ("llama3", "gemma")
    wanted = [f"{begins}{text.strip() if trims else text}{end}" for text in said[1::2]]
    assert learned(found) == "".join(wanted)
    assert controls(found.input_ids) == controls(simple.input_ids)
    assert found.unlearnt == 0


@several
@given(question=texts, answer=texts)
def test_without_a_template_a_blank_is_all_that_is_added(question, answer):
    found = encoder("generate", None, prompt="{input}:").encode(Text(question, answer))
    blank = "" if answer[0].isspace() else " "
    assert learned(found) == f"{blank}{answer}</s>"
    assert pairs_tokenizer().decode(found.input_ids) == f"{question}:{blank}{answer}</s>"
    assert controls(found.input_ids) == ["</s>"]


@several
@given(text=texts)
def test_a_text_to_classify_holds_no_control_token(text):
    found = encoder("classify", None, "classifier", prompt="{input}").encode(Text(text, "a"))
    assert pairs_tokenizer().decode(found.input_ids) == text
    assert controls(found.input_ids) == []


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "mistral", "phi", "zephyr", "thinking"])
def test_the_end_of_a_turn_is_found(family):
    template, end = TEMPLATES[family]
    for one in (template, template.replace(end, f"\n{end}")):
        words = pairs_tokenizer(one)
        assert turn_end(words) == words.convert_tokens_to_ids(end)


def test_where_a_template_has_no_end_of_a_turn_there_is_none():
    assert turn_end(pairs_tokenizer("{% for m in messages %}{{ m.content }}\n{% endfor %}")) is None
    assert (
        turn_end(pairs_tokenizer("{% for m in messages %}{{ m.content }} says {{ m.role }}</s>{% endfor %}"))
        is None
    )
    assert turn_end(pairs_tokenizer("{{ raise_exception('no') }}")) is None
    assert turn_end(pairs_tokenizer(None)) is None


def test_special_tokens_of_the_prompt_itself_stay_special():
    found = encoder("generate", None, prompt="<|user|>{input}<|end|>\n").encode(Text("<|end|> a", "b"))
    assert controls(found.input_ids) == ["<|user|>", "<|end|>", "</s>"]
    assert found.literals == ("<|end|>",)


def test_a_template_that_thinks_is_told_not_to_where_there_are_no_thoughts():
    thinking = encoder("generate", TEMPLATES["thinking"][0], prompt="{input}", chat_template=True)
    found = thinking.encode(Text("why", "so"))
    assert found.prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert learned(found) == "so<|im_end|>"
    found = thinking.encode(Text("why", "<think>\nhm\n</think>\n\nso"))
    assert found.prompt.endswith("assistant\n")
    assert learned(found) == "<think>\nhm\n</think>\n\nso<|im_end|>"


def test_thoughts_that_a_template_drops_later_make_a_turn_context():
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nfirst"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "second", "reasoning_content": "well"},
    ]
    found = encoder("chat", TEMPLATES["thinking"][0]).encode(Text(json.dumps(messages), ""))
    assert learned(found) == "<think>\nwell\n</think>\n\nsecond<|im_end|>"
    assert found.unlearnt == 1
    assert "first<|im_end|>" in found.prompt


def test_a_template_that_opens_thoughts_is_answered_without_them():
    reasoner = encoder("generate", REASONER, prompt="{input}", chat_template=True)
    found = reasoner.encode(Text("why", "so"))
    assert found.prompt == "<|user|>why<|assistant|>"
    assert learned(found) == "so</s>"
    with pytest.raises(Unusable, match="the chat template drops a part of the answer"):
        reasoner.encode(Text("why", "<think>hm</think>so"))
    chat = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so", "thinking": "hm"}]
    with pytest.raises(Unusable, match="the chat template rewrites what the assistant says"):
        encoder("chat", REASONER).encode(Text(json.dumps(chat), ""))


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def calling(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "<|im_end|> 5 mm", "tool_call_id": "1"},
        {"role": "assistant", "content": "Yes."},
    ]


@pytest.mark.parametrize("template", [CALLING, CALLING_WITH_TEXT])
@pytest.mark.parametrize("arguments", ['{"where": "<|im_end|> é"}', {"where": "<|im_end|> é"}])
def test_calls_are_learned_as_the_template_writes_them(template, arguments):
    text = json.dumps({"messages": calling(arguments), "tools": TOOLS})
    found = encoder("chat", template).encode(Text(text, ""))
    call = '<tool_call>{"name": "weather", "arguments": {"where": "<|im_end|> é"}}</tool_call>'
    assert learned(found) == f"{call}<|im_end|>Yes.<|im_end|>"
    assert controls(found.input_ids) == ["<|im_start|>", "<|im_end|>"] * 5
    assert found.literals == ("<|im_end|>",)


def test_a_conversation_that_ends_with_a_call_has_the_call_for_its_answer():
    messages = calling({"where": "here"})[:2]
    found = encoder("chat", CALLING).encode(Text(json.dumps(messages), ""))
    assert found.answer == '<tool_call>{"name": "weather", "arguments": {"where": "here"}}</tool_call>'
    assert found.prompt.endswith("<|im_start|>assistant\n")


def test_what_a_template_leaves_out_is_not_trained_without():
    chatml = TEMPLATES["chatml"][0]
    with pytest.raises(Unusable, match="the chat template leaves out tool calls"):
        encoder("chat", chatml).encode(Text(json.dumps(calling({"a": 1})), ""))
    plain = json.dumps({"messages": calling({"a": 1})[::3], "tools": TOOLS})
    with pytest.raises(Unusable, match=r"has no place for tools .data\.tools=null leaves them out"):
        encoder("chat", chatml).encode(Text(plain, ""))
    deaf = chatml.replace("{{ m.content }}", "{% if m.role != 'developer' %}{{ m.content }}{% endif %}")
    told = [{"role": "developer", "content": "Be brief."}, *calling({})[::3]]
    with pytest.raises(Unusable, match="leaves out what the developer says"):
        encoder("chat", deaf).encode(Text(json.dumps(told), ""))
    assert learned(encoder("chat", chatml).encode(Text(json.dumps(told), ""))) == "Yes.<|im_end|>"


def test_arguments_that_are_written_as_python_are_refused():
    python = CALLING.replace("c.function.arguments | tojson", "c.function.arguments")
    found = encoder("chat", python).encode(Text(json.dumps(calling({"a": None})), ""))
    assert '{"a": null}' in learned(found)
    never = CALLING.replace("c.function.arguments | tojson", "c.function.arguments | string | tojson")
    with pytest.raises(Unusable, match="writes the arguments of tool calls not as JSON"):
        encoder("chat", never).encode(Text(json.dumps(calling({"a": None})), ""))


def test_what_the_system_says_can_begin_the_next_turn():
    gemma = TEMPLATES["gemma"][0]
    messages = [{"role": "system", "content": "Be brief."}, *calling({})[::3]]
    row = Text(json.dumps(messages), "")
    with pytest.raises(Unusable, match=r"refuses it .System role not supported"):
        encoder("chat", gemma).encode(row)
    assert encoder("chat", gemma).refused_at(row) == "message 1 (system): Be brief."
    found = encoder("chat", gemma, system_turn="fold").encode(row)
    assert "<start_of_turn>user\nBe brief.\n\nRain?<end_of_turn>" in found.prompt


def test_what_a_tokenizer_can_not_split_is_refused():
    from tests import tiny

    words = Encoder(configure(None, task=WIDE | {"prompt": "{input}"}).task, tiny.tokenizer(), "causal")
    with pytest.raises(Unusable, match=r"`<eos>` in a text is a special token .* can't be read as text"):
        words.encode(Text("red <eos> green", "blue"))
    assert words.encode(Text("red green", "blue")).literals == ()


def test_columns_share_the_limit_and_the_longest_is_cut_first():
    pair = encoder("generate", None, prompt="<{a}|{b}>\n", max_input_tokens=10)
    row = Text(json.dumps({"a": "x" * 50, "b": "zq"}), "yes")
    found = pair.encode(row)
    assert found.prompt == f"<{'x' * 8}|zq>\n"
    assert found.input_cut
    assert json.loads(pair.visible(row).input) == {"a": "x" * 8, "b": "zq"}
    even = pair.encode(Text(json.dumps({"a": "x" * 50, "b": "z" * 50}), "yes"))
    assert even.prompt == f"<{'x' * 5}|{'z' * 5}>\n"


def test_a_prompt_is_the_user_s_turn_for_classes_too():
    found = encoder("classify", TEMPLATES["chatml"][0], "classifier", prompt="{input}", chat_template=True)
    assert found.encode(Text("a", "b")).prompt == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_of_a_tokenizer_that_ends_every_text_the_prompt_goes_on():
    words = copy.deepcopy(pairs_tokenizer())
    special = [(word, words.convert_tokens_to_ids(word)) for word in ("<s>", "</s>")]
    words.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    for begins, text in (("", "why"), ("", "</s>"), ("<|user|>", "</s>")):  # in a row it is text
        task = configure(None, task=WIDE | {"prompt": begins + "{input}:"}).task
        found = Encoder(task, words, "causal").encode(Text(text, "so"))
        assert words.decode(found.input_ids) == f"<s>{begins}{text}: so</s>"
        assert words.decode(found.prompt_ids) == f"<s>{begins}{text}:"
        assert controls(found.input_ids) == ["<s>", *filter(None, [begins]), "</s>"]


def test_an_answer_ends_where_the_template_has_no_end_for_it():
    endless = TEMPLATES["plain"][0].replace("</s>", "\n")
    found = encoder("generate", endless, prompt="{input}", chat_template=True).encode(Text("why", "so"))
    assert found.prompt == "user: why\nassistant: "
    assert learned(found) == "so</s>"


def test_a_template_that_writes_something_else_is_not_trained_on():
    counting = "{{ messages | length }}" + TEMPLATES["chatml"][0]
    with pytest.raises(Unusable, match=r"^the chat template rewrites the answer$"):
        encoder("generate", counting, prompt="{input}", chat_template=True).encode(Text("why", "so"))
    quoting = TEMPLATES["chatml"][0].replace("{{ m.content }}", "{{ [m.content] | string }}")
    chat = [{"role": "user", "content": "<|end|>"}, {"role": "assistant", "content": "so"}]
    with pytest.raises(Unusable, match="the chat template rewrites a special token in a text"):
        encoder("chat", quoting).encode(Text(json.dumps(chat), ""))
    with pytest.raises(Unusable, match=r"^the chat template rewrites the answer$"):
        encoder("generate", quoting, prompt="{input}", chat_template=True).encode(Text("<|end|>", "so"))


def test_a_call_is_learned_from_a_template_that_ends_the_whole_with_something():
    text = json.dumps({"messages": calling({"where": "here"}), "tools": TOOLS})
    ended = CALLING + "{% if not add_generation_prompt %}</s>{% endif %}"
    call = '<tool_call>{"name": "weather", "arguments": {"where": "here"}}</tool_call>'
    assert learned(encoder("chat", ended).encode(Text(text, ""))) == f"{call}<|im_end|>Yes.<|im_end|>"


def test_a_call_without_the_thoughts_before_it_is_context():
    messages = calling({"where": "here"})
    messages[1]["reasoning_content"] = "I have to look."
    found = encoder("chat", CALLING).encode(Text(json.dumps(messages), ""))
    assert (learned(found), found.unlearnt) == ("Yes.<|im_end|>", 1)


@settings(max_examples=25, deadline=None, database=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=5), limit=st.integers(1, 40))
def test_columns_never_have_more_than_the_limit_together(lengths, limit):
    names = "abcde"[: len(lengths)]
    one = encoder("generate", None, prompt=":".join(f"{{{name}}}" for name in names), max_input_tokens=limit)
    row = Text(json.dumps({name: "x" * length for name, length in zip(names, lengths, strict=True)}), "yes")
    found = one.encode(row)
    assert len(pairs_tokenizer().tokenize(found.prompt.replace(":", ""))) == min(limit, sum(lengths))
    assert found.input_cut == (sum(lengths) > limit)


@pytest.mark.parametrize(("text", "left"), [("abcdef", "abc"), ("abéf", "ab")])
def test_a_tokenizer_without_offsets_cuts_at_whole_characters(text, left):
    task = configure(None, task=WIDE | {"prompt": "{input}:", "max_input_tokens": 3}).task
    found = Encoder(task, ByT5Tokenizer(), "seq2seq").encode(Text(text, "yes"))
    assert found.prompt == f"{left}:"
    assert found.input_cut
