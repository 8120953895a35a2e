"""Lengths that follow from the rows."""

from dataclasses import replace

import pytest
import torch

from sweeper.config.types import AUTO
from sweeper.data.lengths import ON_CPU, ON_GPU, most_tokens, take
from sweeper.data.manifest import Manifest, SplitInfo, lengths
from sweeper.data.texts import Text
from sweeper.errors import ConfigError
from sweeper.loading import read, to_tree
from tests.rows import tokenizer
from tests.tiny import config
from tests.tiny import tokenizer as tiny_tokenizer

TASK = replace(config().task, prompt="{input}:", chat_template=False)
OPEN = replace(
    TASK,
    max_input_tokens=AUTO,
    max_answer_tokens=AUTO,
    generation=replace(TASK.generation, max_new_tokens=AUTO),
)


def rows(inputs: int, answers: int) -> list[Text]:
    """100 rows of at most so many bytes, of which each is a token."""
    return [Text("x" * max(1, inputs * i // 100), "y" * max(1, answers * i // 100)) for i in range(1, 101)]


def test_98_of_100_rows_are_not_cut():
    found = take(OPEN, tokenizer(), "causal", rows(1000, 400), None, 4096)
    # The next of the inputs has 990 tokens; the answer begins with a blank.
    assert dict(found.taken) == {"max_input_tokens": 992, "max_answer_tokens": 400, "max_new_tokens": 400}
    assert (found.rows, found.bound) == (100, None)


def test_short_rows_keep_some_room():
    found = take(OPEN, tokenizer(), "causal", rows(3, 2), None, 4096)
    assert set(found.taken.values()) == {16}


@pytest.mark.parametrize(("positions", "most"), [(512, 4096), (None, 512)])
def test_the_input_gives_way_where_both_do_not_fit(positions, most):
    found = take(OPEN, tokenizer(), "causal", rows(1000, 300), positions, most)
    assert found.taken["max_answer_tokens"] == 304
    assert found.taken["max_input_tokens"] == 512 - 304 - len(":") - 1 - 4  # an end token, and some to spare
    assert found.bound == 512


def test_an_encoder_and_a_decoder_have_their_room_each():
    found = take(OPEN, tokenizer(), "seq2seq", rows(1000, 300), 512, 4096)
    assert found.taken["max_answer_tokens"] == 304
    assert found.taken["max_input_tokens"] == 512 - len(":") - 1 - 4


def test_what_is_given_stays():
    found = take(replace(OPEN, max_input_tokens=32), tokenizer(), "causal", rows(1000, 80), None, 4096)
    assert dict(found.taken) == {"max_answer_tokens": 80, "max_new_tokens": 80}
    assert take(TASK, tokenizer(), "causal", [], None, 4096).taken == {}


def test_a_long_one_that_is_given_takes_no_room_from_the_other():
    found = take(replace(OPEN, max_input_tokens=500), tokenizer(), "causal", rows(1000, 300), None, 512)
    assert found.taken["max_answer_tokens"] == 304


def test_it_is_told_with_the_rows_that_are_cut():
    found = take(OPEN, tokenizer(), "causal", rows(1000, 80), 512, 4096)
    info = SplitInfo(40, "", 90, cut_inputs=3, cut_answers=2, answer_tokens=5, labels=())
    both = {"train": info, "validation": info}
    said = lengths(Manifest("", "", "", None, "", "causal", 0, {}, {}, both, (), (), lengths=found))
    assert "answers 80" in said
    assert "within 512 tokens a row" in said
    assert "cut are 6 inputs and 4 answers of 80 rows" in said


def test_rows_that_cannot_be_encoded_get_what_there_is_room_for():
    with_end = Text("red <eos>", "blue")  # which this tokenizer can't take for text
    found = take(OPEN, tiny_tokenizer(), "causal", [with_end], 512, 4096)
    assert (found.rows, found.bound) == (0, 512)
    assert all(16 < tokens <= 512 for tokens in found.taken.values())
    assert take(OPEN, tiny_tokenizer(), "causal", [with_end, Text("red", "blue")], 512, 4096).rows == 1


def test_auto_is_written_as_such_and_other_words_are_refused():
    tree = to_tree(OPEN)
    assert (tree["max_input_tokens"], tree["generation"]["max_new_tokens"]) == ("auto", "auto")
    assert read(type(OPEN), tree, "task") == OPEN
    with pytest.raises(ConfigError, match="must be a number of tokens, 1 or more, or auto"):
        read(type(OPEN), tree | {"max_input_tokens": "many"}, "task")
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        read(type(OPEN), tree | {"max_answer_tokens": 0}, "task")


@pytest.mark.parametrize(("device", "wanted"), [("cuda", ON_GPU), ("cpu", ON_CPU)])
def test_the_device_that_is_chosen_tells_how_much_there_is_room_for(monkeypatch, device, wanted):
    model = config().model
    assert most_tokens(replace(model, device=device)) == wanted
    monkeypatch.setattr("sweeper.models.pretrained.choose_device", lambda model: torch.device(device))
    assert most_tokens(replace(model, device="auto")) == wanted
