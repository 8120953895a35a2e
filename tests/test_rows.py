"""The verb rows, and what is told of rows that are left out."""

import pytest

from sweeper.__main__ import main
from sweeper.data.checks.amount import left_out
from sweeper.data.manifest import fates
from sweeper.data.prepare import prepare
from sweeper.errors import DataError
from tests import tiny
from tests.rows import CHATML, chat, configure, pairs, tokenizer, write_jsonl
from tests.templates import TEMPLATES, pairs_tokenizer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    model, words = tiny.llama(), tokenizer(CHATML)
    model.resize_token_embeddings(len(words))
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", pairs(40))
    write_jsonl(tmp_path / "chats.jsonl", [chat(f"hello {i}", f"good day <|im_end|> {i}") for i in range(40)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = [
    "model=custom", "model.name=./model", "data.sizes.validation=2", "data.sizes.test=2",
    "data.keep_together=false",
]  # fmt: skip


def shown(capsys, *line):
    assert main(["rows", *line]) == 0
    return capsys.readouterr().out


def test_rows_are_shown_as_the_model_sees_them_and_nothing_is_left(folder, capsys):
    before = sorted(folder.rglob("*"))
    said = shown(
        capsys, "+experiment=summarize", "data=file", "data.path=rows.jsonl", "data.input=text",
        "data.target=answer", *SMALL, "--number", "2",
    )  # fmt: skip
    assert "Rows: 40 read; train 36, validation 2, test 2; 0 left out" in said
    assert "A blank is put before an answer" in said
    assert "\nSummary:[[ answer " in said
    assert "<|im_end|>]]" in said
    assert said.count("Special tokens: 1 <|im_end|>") == 2
    assert sorted(folder.rglob("*")) == before


def test_what_looks_like_a_special_token_is_told_from_one(folder, capsys):
    said = shown(
        capsys, "+experiment=instruct", "data.path=chats.jsonl", *SMALL, "--split", "test", "--number=1"
    )
    assert "<|im_start|>assistant\n[[good day <|im_end|> " in said
    assert "Special tokens: 2 <|im_start|>, 2 <|im_end|>" in said
    assert "test row 1 of 2" in said


def test_classes_are_named(folder, capsys):
    said = shown(
        capsys, "+experiment=classify", "data=file", "data.path=rows.jsonl", "data.input=text",
        "data.target=label", *SMALL,
    )  # fmt: skip
    assert "what it learns to tell is the class" in said
    assert "Class: " in said
    assert "[[" not in said


def test_a_sweep_that_has_begun_shows_its_own_rows_whatever_became_of_the_file(folder, capsys):
    """The columns are told by the form of the rows, which the file alone would tell."""
    given = [{"question": row["text"], "answer": row["answer"]} for row in pairs(40)]
    write_jsonl(folder / "asked.jsonl", given)
    line = ["+experiment=generate", "data.path=asked.jsonl", "task.chat_template=false", *SMALL]
    line += ["budget.trials=1", "tracking=none", "executor=inline", "verdict=none", "model.device=cpu"]
    line += ["data.sizes.train=4", "task.generation.max_new_tokens=2", "data.audit.fail_on=never"]
    with tiny.one_thread():
        assert main(line) == 0
    capsys.readouterr()
    begun = shown(capsys, "generate", "--number", "2")
    assert "Rows: 40 read; train 4, validation 2, test 2" in begun
    assert begun.count("\ntrain row ") == 2
    assert "[[ answer " in begun
    before = sorted(folder.rglob("*"))
    (folder / "asked.jsonl").unlink()
    assert shown(capsys, "generate", "--number", "2") == begun
    write_jsonl(folder / "asked.jsonl", [{"text": f"another {i}"} for i in range(40)])
    assert shown(capsys, "generate", "--number", "2") == begun
    assert sorted(folder.rglob("*")) == before
    other = shown(capsys, "generate", "--split", "test", "--number", "1")
    assert "test row 1 of 2" in other
    assert main(["rows", "of_no_sweep"]) == 2
    assert "no sweep `of_no_sweep` in sweeps/; known sweeps: generate" in capsys.readouterr().err


def test_a_split_that_is_not_there_is_a_fault(folder, capsys):
    line = ["+experiment=instruct", "data.path=chats.jsonl", *SMALL, "data.sizes.test=0", "--split", "test"]
    assert main(["rows", *line]) == 2
    assert "there are no test rows; there are: train, validation" in capsys.readouterr().err


def frozen(tmp_path, rows, kind="generate", template=None, sizes=(None, 2, 2), **options):
    tmp_path.mkdir(exist_ok=True)
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows), kind, sizes=sizes, **options)
    words = pairs_tokenizer(TEMPLATES[template][0]) if template else tokenizer()
    return prepare(config, words, "causal", tmp_path / "rows").manifest


def test_every_row_is_accounted_for(tmp_path):
    given = [*pairs(30), *pairs(3), {"text": "", "answer": "a"}, {"text": "n/a", "answer": "b"}]
    told = frozen(tmp_path, given, keep_together=False, sizes=(20, 2, 2))
    first, *reasons = fates(told)
    assert (
        first == "Rows: 35 read; train 20, validation 2, test 2; 5 left out; 6 more than data.sizes asks for"
    )
    assert reasons == [
        "3 left out: cleaning step exact_duplicates",
        "1 left out: no text; e.g. row 34",
        "1 left out: cleaning step missing",
    ]
    finding = left_out(told)
    assert (finding.severity, finding.count, finding.of) == ("note", 5, 35)


def test_near_duplicates_are_told_and_few_training_rows_are_loud(tmp_path):
    words = ["red", "blue", "green", "grey", "pink", "black", "white", "brown", "gold", "teal"]
    twins = [{"text": f"{one} " * 9 + "ab"[i % 2], "answer": "x"} for i, one in enumerate(words * 2)]
    told = frozen(tmp_path, twins, sizes=(None, 5, 3), cleaning=())
    rows = {name: split.rows for name, split in told.splits.items()}
    assert sum(told.left_out.values()) + sum(rows.values()) == 20
    assert set(told.left_out) == {"near-duplicate of a test row", "near-duplicate of a validation row"}
    told = frozen(tmp_path, pairs(12), sizes=(None, 7, 3), keep_together=False)
    (loud,) = [warning for warning in told.warnings if "TRAINING ROWS" in warning]
    assert loud.startswith("ONLY 2 TRAINING ROWS, fewer than the 7 that are measured on")
    told = frozen(tmp_path, pairs(12), sizes=(None, 4, 3), keep_together=False)
    assert not any("TRAINING ROWS" in warning for warning in told.warnings)


def test_a_template_that_refuses_some_rows_is_told_by_reason_and_all_rows_by_a_way_out(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    given = [chat(f"hello {i}", f"good day {i}") for i in range(30)]
    for row in given[::3]:
        row["messages"].insert(0, system)
    wide = {"max_input_tokens": 500, "max_answer_tokens": 500}
    told = frozen(tmp_path, given, "chat", "gemma", task=wide, keep_together=False)
    (reason,) = told.dropped
    assert reason == "the chat template refuses it (System role not supported)"
    assert told.first[reason].endswith("message 1 (system): Be brief.")
    with pytest.raises(DataError, match=r"System role not supported.*Set task\.system_turn=fold"):
        frozen(tmp_path / "all", given[::3], "chat", "gemma", task=wide, keep_together=False)
    folded = frozen(
        tmp_path / "all",
        given[::3],
        "chat",
        "gemma",
        task=wide | {"system_turn": "fold"},
        keep_together=False,
    )
    assert folded.dropped == {}


def test_turns_that_carry_no_loss_are_told(tmp_path):
    given = [chat(f"a {i}", f"<think>\nhm {i}\n</think>\n\nb {i}", f"c {i}", f"d {i}") for i in range(30)]
    wide = {"max_input_tokens": 500, "max_answer_tokens": 500}
    told = frozen(tmp_path, given, "chat", "thinking", task=wide, keep_together=False)
    assert any("in 30 chats the chat template changes or leaves out" in warning for warning in told.warnings)
