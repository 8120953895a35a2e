"""Augmented rows: what is changed in them, what isn't, and the pool that is frozen of them."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset

from sweeper.config import AugmentConfig, BackTranslationConfig
from sweeper.data.augment import Augmenter, defining
from sweeper.data.manifest import key
from sweeper.data.prepare import open_rows, open_test, prepare
from sweeper.data.texts import Form, Text
from sweeper.errors import DataError
from tests.rows import CHATML, chat, configure, tokenizer, write_jsonl

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
EDA = ("insertion", "deletion", "swap")
NOWHERE = BackTranslationConfig(None, None)


def options(*methods, copies=1, synonyms=None):
    return AugmentConfig(methods, copies, 0.1, synonyms, NOWHERE)


def rows(count):
    """Rows of 13 different words, of which the first is in the answer too."""
    texts = [[f"{WORDS[(3 * i + j) % 10]}{j}" for j in range(12)] + [f"end{i}"] for i in range(count)]
    return [
        {"text": " ".join(text), "answer": f"{text[0]} {i}", "label": "ab"[i % 3 == 0]}
        for i, text in enumerate(texts)
    ]


def augmented(texts, *methods, kind="generate", seed=7, **more):
    rows = [(f"{number:016x}", text) for number, text in enumerate(texts)]
    return list(Augmenter(options(*methods, **more), Form(kind), seed).copies(rows))


TEXTS = [Text(row["text"], row["answer"]) for row in rows(30)]


def test_only_the_input_is_changed():
    found = augmented(TEXTS, *EDA)
    assert [copy.original for copy in found] == [f"{number:016x}" for number in range(30)]
    for text, copy in zip(TEXTS, found, strict=True):
        assert copy.text.target == text.target
        assert copy.text.input != text.input
        lost = set(text.input.split()) - set(copy.text.input.split())
        assert len(lost) <= 1
        assert not lost & set(text.target.split())


def test_what_is_drawn_follows_from_seed_and_row_alone():
    found = augmented(TEXTS, *EDA, copies=2)
    assert augmented(TEXTS, *EDA, copies=2) == found
    assert augmented(TEXTS[:5], *EDA, copies=2) == found[:10]
    assert augmented(TEXTS, *EDA, copies=2, seed=8) != found


def test_methods_take_turns_and_copies_differ():
    found = augmented(TEXTS, *EDA, copies=3)
    for number in range(30):
        mine = [copy for copy in found if copy.original == f"{number:016x}"]
        assert {copy.method for copy in mine} == set(EDA)
        assert len({copy.text.input for copy in mine}) == 3
    counts = [sum(copy.method == method for copy in augmented(TEXTS, *EDA)) for method in EDA]
    assert min(counts) >= 4


def test_where_a_method_finds_nothing_the_next_is_tried(tmp_path):
    synonyms = tmp_path / "list.tsv"
    synonyms.write_text("".join(f"{word}5\tomega\n" for word in WORDS[:5]))
    found = augmented(TEXTS, "synonyms", "swap", synonyms=synonyms)
    assert len(found) == 30
    for text, copy in zip(TEXTS, found, strict=True):
        assert copy.method == "swap" or "omega" in copy.text.input.replace(text.input, "")
    assert 0 < sum(copy.method == "synonyms" for copy in found) <= 15
    assert len(augmented([Text("alone", "x"), Text("two words", "x")], "swap")) == 1
    assert augmented([Text("alone", "x")], *EDA[1:]) == []


def test_of_a_conversation_the_user_alone_is_changed():
    said = chat("where are the alpha and the beta now", "the alpha left", "and where is the gamma", "here")
    messages = [{"role": "system", "content": "you know every letter"}, *said["messages"]]
    (copy,) = augmented([Text(json.dumps(messages), "")], "swap", kind="chat")
    found = json.loads(copy.text.input)
    assert [one["role"] for one in found] == [one["role"] for one in messages]
    for before, after in zip(messages, found, strict=True):
        assert (before["content"] != after["content"]) == (before["role"] == "user")


def prepared(tmp_path, *methods, name="sweep", kind="generate", table=None, template=None, task=None, **more):
    path = write_jsonl(tmp_path / "rows.jsonl", table or rows(40))
    config = configure(path, kind, sizes=(None, 5, 5), keep_together=False, task=task)
    config = replace(config, data=replace(config.data, augment=options(*methods, **more)))
    return prepare(config, tokenizer(template), "causal", tmp_path / name / "rows"), tmp_path / name / "rows"


def test_the_pool_is_frozen_beside_the_rows_it_was_made_from(tmp_path):
    found, folder = prepared(tmp_path, *EDA, copies=2)
    pool = Dataset.from_file(str(folder / "augmented.arrow"))
    assert pool.to_list() == found.augmented.to_list() == open_rows(folder).augmented.to_list()
    train = {row["id"]: row for row in found.train}
    assert found.manifest.augmented.rows == len(pool) > 1.8 * len(train) == 54
    others = {row["id"] for split in (found.validation, open_test(folder)) for row in split}
    assert not set(pool["original"]) & others
    for row in pool:
        original = train[row["original"]]
        assert row["id"] in (f"{original['id']}+1", f"{original['id']}+2")
        assert row["method"] in EDA
        assert row["prompt"] != original["prompt"]
        for same in ("answer", "label", "slice", "group"):
            assert row[same] == original[same]
        said = [token for token in row["labels"] if token != -100]
        assert said == [token for token in original["labels"] if token != -100]


def test_the_rows_themselves_are_those_without_a_pool(tmp_path):
    with_pool, _ = prepared(tmp_path, "swap", name="with")
    without, folder = prepared(tmp_path, name="without")
    assert without.augmented is None
    assert not (folder / "augmented.arrow").exists()
    assert with_pool.train.to_list() == without.train.to_list()
    assert with_pool.validation.to_list() == without.validation.to_list()
    assert with_pool.digest != without.digest
    assert prepared(tmp_path, "swap", name="again")[0].digest == with_pool.digest


def test_conversations_have_a_pool_too(tmp_path):
    table = [chat(row["text"], row["answer"]) for row in rows(40)]
    task = {"max_input_tokens": 300}
    found, _ = prepared(tmp_path, "swap", kind="chat", table=table, template=CHATML, task=task)
    answers = {row["id"]: row["answer"] for row in found.train}
    assert [row["answer"] for row in found.augmented] == [answers[row["original"]] for row in found.augmented]


def test_rows_that_no_method_can_change(tmp_path):
    table = [{"text": f"word{i}", "answer": f"answer {i}"} for i in range(40)]
    with pytest.raises(DataError, match=r"none of 30 training rows could be changed by deletion, swap; take"):
        prepared(tmp_path, "deletion", "swap", table=table)


def test_a_copy_differs_in_what_the_limit_lets_pass(tmp_path):
    found, _ = prepared(tmp_path, *EDA, copies=3, task={"max_input_tokens": 12})
    prompts = {row["id"]: row["prompt"] for row in found.train}
    assert found.manifest.splits["train"].cut_inputs == 30
    assert len(found.augmented) > 40
    assert all(row["prompt"] != prompts[row["original"]] for row in found.augmented)


def test_few_copies_are_told(tmp_path):
    table = [{"text": f"word{i}" + " more" * (i % 4 == 0), "answer": f"answer {i}"} for i in range(40)]
    found, _ = prepared(tmp_path, "deletion", table=table)
    assert "of 30 training rows have an augmented copy" in found.manifest.warnings[-1]


def test_copies_that_became_a_row_of_another_split_are_left_out(tmp_path):
    """Training rows of two words, whose only swap is in another split for all but the last three."""
    turned = [{"text": f"second{i} first{i}", "answer": f"answer {i}"} for i in range(20)]
    straight = [{"text": f"First{i} second{i}", "answer": f"other {i}"} for i in range(23)]
    for name, table in (("train", straight), ("validation", turned[:8]), ("test", turned[8:])):
        write_jsonl(tmp_path / f"{name}.jsonl", table)
    parts = ("train.jsonl", "validation.jsonl", "test.jsonl")
    config = configure(tmp_path, sizes=(None, 8, 12), parts=parts, keep_together=False)
    config = replace(config, data=replace(config.data, augment=options("swap")))
    found = prepare(config, tokenizer(), "causal", tmp_path / "rows")
    assert sorted(found.augmented["answer"]) == ["other 20", "other 21", "other 22"]
    assert found.manifest.warnings == (
        "3 of 23 training rows have an augmented copy; the others are trained on as they are, whatever "
        "trial.augment_rate says",
        "20 augmented copies were left out: they are equal to a validation or test row",
    )
    write_jsonl(tmp_path / "train.jsonl", straight[:20])
    with pytest.raises(
        DataError, match=r"none of 20 .* by swap into anything but 20 copies of validation and test"
    ):
        prepare(config, tokenizer(), "causal", tmp_path / "others")


def test_the_key_of_the_rows_follows_what_the_pool_is_made_of(tmp_path):
    synonyms = tmp_path / "list.tsv"
    synonyms.write_text("alpha\tomega\n")

    def key_of(augment):
        config = configure(tmp_path / "rows.jsonl")
        return key(replace(config, data=replace(config.data, augment=augment)))

    before = key_of(options("insertion", synonyms=synonyms))
    assert before != key_of(options("insertion"))
    assert key_of(options(copies=2)) == key_of(options())  # nothing is made of it
    synonyms.rename(tmp_path / "moved.tsv")
    assert key_of(options("insertion", synonyms=tmp_path / "moved.tsv")) == before
    (tmp_path / "moved.tsv").write_text("alpha\tbeta\n")
    assert key_of(options("insertion", synonyms=tmp_path / "moved.tsv")) != before
    assert defining(options()) == {}
