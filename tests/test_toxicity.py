"""Toxicity by a classifier in a local folder: a tiny BERT that has learned one insult."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from sweeper.data.audit import audit
from sweeper.data.checks.toxicity import Toxicity
from sweeper.data.findings import Batch
from sweeper.errors import DataError
from tests.rows import configure, write_jsonl

WORDS = ["[PAD]", "[UNK]", "you", "are", "an", "idiot", "a", "friend", "the", "house", "is", "red", "here"]
CIVIL = ["you are a friend", "the house is red", "a red house is here", "you are here"]
RUDE = ["you are an idiot", "the idiot is here", "idiot"]


def save(folder, labels=("toxic", "insult", "christian")):
    """A classifier for which `idiot` is toxic and insulting, and every text is about the third label."""
    torch.manual_seed(7)
    words = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106 - of a tokenizer
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")  # noqa: S106 - of a tokenizer
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=34, problem_type="multi_label_classification",
        id2label=dict(enumerate(labels)), label2id={name: n for n, name in enumerate(labels)}, **sizes,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    batch = tokenizer([*CIVIL, *RUDE], padding=True, return_tensors="pt")
    wanted = torch.tensor([[0.0, 0.0, 1.0]] * len(CIVIL) + [[1.0, 1.0, 1.0]] * len(RUDE))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**batch, labels=wanted).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("toxic"))


def found_in(folder, texts, answers):
    check = Toxicity(folder, seed=7)
    names = [f"{n:016x}" for n in range(len(texts))]
    check.see(Batch(0, names, ["train"] * len(texts), texts, answers, [""] * len(texts)))
    return check.findings()


def test_rows_with_an_insult_in_input_or_answer_are_counted(folder):
    [found] = found_in(folder, [*CIVIL, *RUDE, CIVIL[0]], ["", "", "", "", "", "", CIVIL[1], RUDE[0]])
    assert (found.count, found.of, found.severity) == (4, 8, "warning")
    assert found.message == "4 of 8 sampled rows are toxic to the classifier (4 toxic, 4 insult)"
    assert {row for row, _ in found.suspects} == {f"{n:016x}" for n in (4, 5, 6, 7)}
    assert all(0.5 <= score <= 1 for _, score in found.suspects)
    assert {example.text for example in found.examples} == set(RUDE)


def test_civil_and_empty_rows_are_nothing_to_tell_and_long_ones_are_cut(folder):
    assert found_in(folder, [*CIVIL, "", " ".join(["red"] * 500)], [""] * 6) == ()


def test_the_audit_looks_with_the_classifier_that_it_was_given(tmp_path, folder):
    rows = [{"text": f"{text} {n}", "answer": f"{n}"} for n, text in enumerate(CIVIL * 15)]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"text": RUDE[0], "answer": "yes"}])
    config = configure(path)
    asked = replace(config, data=replace(config.data, audit=replace(config.data.audit, toxicity=folder)))
    cache = tmp_path / "audit.json"
    plain, with_it = audit(config, cache), audit(asked, cache)
    assert {one.check for one in with_it.findings} - {one.check for one in plain.findings} == {"toxicity"}
    assert any(suspect.text == RUDE[0] for suspect in with_it.queue)


def test_folders_that_hold_no_such_classifier(tmp_path, folder):
    with pytest.raises(
        DataError, match=r"data\.audit\.toxicity: there is no folder .*hf download unitary/toxic-bert"
    ):
        Toxicity(tmp_path / "nowhere", 7)
    with pytest.raises(DataError, match=r"data\.audit\.toxicity: .* is no model folder"):
        Toxicity(tmp_path, 7)
    with pytest.raises(DataError, match=r"tells joy, anger, fear, and none of toxic, toxicity"):
        Toxicity(save(tmp_path / "feelings", ("joy", "anger", "fear")), 7)
    broken = save(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"data\.audit\.toxicity: .*broken can't be loaded"):
        Toxicity(broken, 7)
