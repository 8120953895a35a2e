import json
from dataclasses import replace

import pytest

from sweeper.data.conversation import check_messages
from sweeper.data.encode import IGNORED, Encoder, Text, Unusable
from sweeper.errors import DataError
from sweeper.models import pretrained
from tests.rows import CHATML, chat, configure, tokenizer


def encoder(kind="generate", architecture="causal", template=None, **task):
    return Encoder(configure(None, kind, task=task).task, tokenizer(template), architecture)


def decoded(ids):
    return tokenizer().decode(ids)


def learnt(encoded):
    """The tokens that carry loss, and those that don't, as two texts."""
    pairs = list(zip(encoded.input_ids, encoded.labels, strict=True))
    assert all(label in (token, IGNORED) for token, label in pairs)
    return decoded([t for t, label in pairs if label != IGNORED]), decoded(
        [t for t, label in pairs if label < 0]
    )


def talk(*said):
    return Text(json.dumps(chat(*said)["messages"]), "")


def test_causal_loss_is_on_answer_and_end_alone():
    found = encoder(prompt="Say {input} now:").encode(Text("a", "yes"))
    assert learnt(found) == (" yes<|im_end|>", "Say a now:")
    assert found.prompt == "Say a now:"
    assert decoded(found.prompt_ids) == "Say a now:"
    assert found.input_ids[: len(found.prompt_ids)] == found.prompt_ids
    assert (found.input_cut, found.answer_cut) == (False, False)


def test_a_prompt_that_ends_in_white_space_needs_no_further_space():
    assert learnt(encoder(prompt="{input}\n").encode(Text("a", "yes")))[0] == "yes<|im_end|>"


def test_a_prompt_as_a_turn_of_the_chat_template():
    found = encoder(template=CHATML, prompt="Say {input}", chat_template=True).encode(Text("a", "yes"))
    assert found.prompt == "<|im_start|>user\nSay a<|im_end|>\n<|im_start|>assistant\n"
    assert learnt(found) == ("yes<|im_end|>", found.prompt)


def test_seq2seq_has_the_answer_in_the_labels():
    found = encoder(architecture="seq2seq", prompt="Say {input}").encode(Text("a", "yes"))
    assert decoded(found.input_ids) == "Say a"
    assert decoded(found.labels) == "yes<|im_end|>"
    assert found.prompt_ids == found.input_ids


def test_a_classifier_has_no_token_to_learn():
    found = encoder("classify", "classifier", prompt="Class of {input}").encode(Text("a", "yes"))
    assert decoded(found.input_ids) == "Class of a"
    assert set(found.labels) == {IGNORED}
    assert found.answer == "yes"


def test_only_the_input_is_cut_and_never_the_template():
    found = encoder(prompt="<{input}> in one word:", max_input_tokens=4).encode(Text("abcdefgh", "yes"))
    assert found.prompt == "<abcd> in one word:"
    assert found.input_cut


def test_a_cut_answer_has_no_end():
    found = encoder(prompt="{input}:", max_answer_tokens=3).encode(Text("a", "yes, of course"))
    assert learnt(found)[0] == " ye"
    assert found.answer_cut
    assert found.answer == "yes, of course"
    assert found.answer_tokens > 3


def test_a_million_characters_are_not_looked_at():
    found = encoder(prompt="{input}:", max_input_tokens=5, max_answer_tokens=3).encode(
        Text("x" * 1_000_000, "y" * 1_000_000)
    )
    assert found.prompt == "xxxxx:"
    assert (found.input_cut, found.answer_cut) == (True, True)


@pytest.mark.parametrize("text", ["ไทย中文日本語", "🙂🙃🙂🙃", "العربية", "\x00\x01\x1b"])
def test_every_script_comes_through_whole_and_cut(text):
    assert encoder(prompt="{input}", max_input_tokens=100).encode(Text(text, "a")).prompt == text
    cut = encoder(prompt="{input}", max_input_tokens=2).encode(Text(text, "a")).prompt
    assert text.startswith(cut)


def test_braces_in_the_text_are_text():
    assert encoder(prompt="{input}").encode(Text("{input} {0}", "a")).prompt == "{input} {0}"


def test_chat_loss_is_on_every_assistant_turn_with_its_end():
    found = encoder("chat", template=CHATML).encode(talk("hi", "hello", "how are you", "fine"))
    says, hears = learnt(found)
    assert says == "hello<|im_end|>fine<|im_end|>"
    assert hears == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        "\n<|im_start|>user\nhow are you<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found.answer == "fine"
    assert decoded(found.prompt_ids) == found.prompt
    assert found.prompt.endswith("how are you<|im_end|>\n<|im_start|>assistant\n")


def test_a_cut_chat_ends_with_the_last_turn_that_is_left():
    one = encoder("chat", template=CHATML, max_input_tokens=50, max_answer_tokens=10)
    found = one.encode(talk("hi", "hello", "how are you " * 10, "fine"))
    assert len(found.input_ids) == 60
    assert learnt(found)[0] == "hello<|im_end|>"
    assert found.answer == "hello"
    assert (found.input_cut, found.answer_cut) == (True, True)


def test_a_chat_without_an_assistant_turn_within_the_limit_is_unusable():
    with pytest.raises(Unusable, match="no assistant turn within the length limit"):
        encoder("chat", template=CHATML, max_input_tokens=5, max_answer_tokens=5).encode(talk("hi", "hello"))


def test_a_template_that_adds_to_the_last_turn_is_followed():
    thinking = CHATML.replace(
        "{{ m.content }}",
        "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}",
    )
    found = encoder("chat", template=thinking).encode(talk("hi", "hello", "more", "fine"))
    assert learnt(found)[0] == "hello<|im_end|><think></think>fine<|im_end|>"


def test_templates_that_can_not_be_followed_make_a_row_unusable():
    rewriting = "{{ messages | length }}" + CHATML
    with pytest.raises(Unusable, match="the chat template rewrites what the assistant says"):
        encoder("chat", template=rewriting).encode(talk("hi", "hello", "more", "fine"))
    strict = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}" + CHATML
    with pytest.raises(Unusable, match=r"the chat template refuses it .too many"):
        encoder("chat", template=strict).encode(talk("hi", "hello", "more", "fine"))
    with pytest.raises(Unusable, match=r"the chat template refuses it .division by zero"):
        encoder("chat", template="{{ 1 / 0 }}" + CHATML).encode(talk("hi", "hello"))


@pytest.mark.parametrize(
    ("kind", "option"), [("chat", "task.kind=chat"), ("generate", "task.chat_template=true")]
)
def test_without_a_chat_template_there_is_no_chat(kind, option):
    with pytest.raises(DataError, match=f"{option} needs a chat template.*instruction-tuned"):
        encoder(kind, chat_template=True)


def test_messages_are_reduced_to_role_and_content():
    wanted = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    given = [{**message, "weight": 1} for message in wanted]
    assert check_messages(given) == wanted
    assert check_messages(json.dumps(given)) == wanted


@pytest.mark.parametrize(
    "value",
    [
        None,
        "not json",
        "[" * 100_000,
        {"role": "user"},
        [],
        ["text"],
        [{"from": "human", "value": "a"}],
        [{"role": "user", "content": "a"}],
        [{"role": "assistant", "content": None}],
        [{"role": "assistant", "content": " "}],
        [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}],
    ],
)
def test_malformed_messages(value):
    assert check_messages(value) is None


@pytest.fixture(scope="module")
def smollm2():
    return pretrained.load_tokenizer(pretrained.resolve(configure(None).model))


def test_smollm2_learns_exactly_the_assistant_turns(smollm2):
    messages = [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello! How are you?"},
        {"role": "user", "content": "Fine.\n"},
        {"role": "assistant", "content": "Good to hear.\n\n中文 🙂"},
    ]
    task = configure(None, "chat").task
    found = Encoder(task, smollm2, "causal").encode(Text(json.dumps(messages), ""))
    whole = smollm2.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert found.input_ids == whole[:-1]  # less the line feed after the last turn
    turns = [f"{message['content']}<|im_end|>" for message in messages[1::2]]
    wanted = [token for turn in turns for token in smollm2(turn)["input_ids"]]
    assert [label for label in found.labels if label != IGNORED] == wanted
    prompt = smollm2.apply_chat_template(
        messages[:3], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert found.prompt_ids == prompt == found.input_ids[: len(prompt)]


def test_smollm2_prompt_and_answer_meet_where_generation_starts(smollm2):
    task = replace(configure(None).task, prompt="Text: {input}\nSummary:")
    found = Encoder(task, smollm2, "causal").encode(Text("The cat sat.", "A cat."))
    assert smollm2.decode(found.input_ids) == "Text: The cat sat.\nSummary: A cat.<|im_end|>"
    assert found.input_ids == [
        *smollm2("Text: The cat sat.\nSummary: A cat.")["input_ids"],
        smollm2.eos_token_id,
    ]
