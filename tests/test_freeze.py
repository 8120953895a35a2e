import numpy as np
import pytest

from sweeper.data.encode import Encoder
from sweeper.data.freeze import freeze, warnings
from sweeper.data.pool import gather
from sweeper.data.sources import load
from sweeper.errors import DataError
from tests.rows import CHATML, chat, configure, pairs, tokenizer, write_jsonl


def freeze_rows(tmp_path, rows, kind="generate", positions=None, candidates=None, **options):
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows), kind, **options)
    pool = gather(load(config.data), config, tmp_path / "pool.arrow")
    architecture = "classifier" if kind == "classify" else "causal"
    encoder = Encoder(config.task, tokenizer(CHATML), architecture)
    everything = np.arange(len(pool.rows))
    candidates = candidates or dict.fromkeys(("train", "validation", "test"), everything)
    infos, *_ = freeze(pool, candidates, encoder, config, tmp_path, positions)
    return infos, pool, warnings(infos, pool.labels, config.data)


def test_splits_that_share_candidates_share_no_row(tmp_path):
    infos, _, said = freeze_rows(tmp_path, pairs(20), sizes=(None, 3, 4))
    assert {name: info.rows for name, info in infos.items()} == {"train": 13, "validation": 3, "test": 4}
    assert list(infos) == ["train", "validation", "test"]
    assert len({info.digest for info in infos.values()}) == 3
    assert said == ()


def test_a_row_that_can_not_be_used_is_replaced_by_the_next(tmp_path):
    rows = [chat("hi" * 50 if i % 2 else "hi", f"hello {i}") for i in range(20)]
    limits = {"max_input_tokens": 60, "max_answer_tokens": 20}
    infos, pool, _ = freeze_rows(tmp_path, rows, "chat", sizes=(4, 3, 3), task=limits)
    assert [info.rows for info in infos.values()] == [4, 3, 3]
    assert pool.dropped["no assistant turn within the length limit"] >= 8
    with pytest.raises(
        DataError, match=r"data\.sizes\.train: 4 usable rows, 5 needed; left out: 10 no assistant"
    ):
        freeze_rows(tmp_path, rows, "chat", sizes=(5, 3, 3), task=limits)


def test_a_limit_that_leaves_no_assistant_turn_at_all(tmp_path):
    rows = [chat("hi" * 50, f"hello {i}") for i in range(9)]
    with pytest.raises(DataError, match=r"0 usable rows, 2 needed.*Raise task\.max_input_tokens .now 20"):
        freeze_rows(tmp_path, rows, "chat", task={"max_input_tokens": 20, "max_answer_tokens": 5})


def test_rows_of_one_mould_are_told_what_helps_them_and_not_what_helps_others(tmp_path):
    same = "a sentence that all of these rows have in common, whatever their number may be"
    rows = [{"text": f"{same}: {i:02}", "answer": same} for i in range(20)]
    with pytest.raises(
        DataError,
        match=r"near-duplicate of a .*\. Lower data\.sizes, give more rows, or set data\.keep_tog",
    ):
        freeze_rows(tmp_path, rows, sizes=(4, 3, 3))


def test_a_limit_that_cuts_every_answer(tmp_path):
    with pytest.raises(
        DataError, match=r"=4 cuts off every answer: their median length is 9 tokens. Set .*=9 or"
    ):
        freeze_rows(tmp_path, pairs(9), task={"max_answer_tokens": 4})


def test_cut_rows_are_counted(tmp_path):
    rows = [{"text": "a long text", "answer": f"{i:06}" if i else "no"} for i in range(12)]
    task = {"max_input_tokens": 4, "max_answer_tokens": 4}
    infos, _, _ = freeze_rows(
        tmp_path,
        rows,
        task=task,
        sizes=(None, 2, 0),
        candidates={"train": np.arange(12), "validation": np.arange(2)},
    )
    assert infos["train"].cut_inputs == 10
    assert infos["validation"].cut_answers == 1
    assert (infos["train"].cut_answers, infos["train"].answer_tokens) == (10, 7)


def test_rows_longer_than_the_model_can_look_at(tmp_path):
    with pytest.raises(
        DataError, match=r"longest row has \d+ tokens and the model looks at 16; lower task\.max_input"
    ):
        freeze_rows(tmp_path, pairs(9), positions=16)


def test_a_training_split_of_one_class(tmp_path):
    rows = [{"text": f"{i}", "answer": "rare" if i in (0, 1) else "usual"} for i in range(12)]
    first = {"validation": np.arange(12), "train": np.arange(12)}
    with pytest.raises(DataError, match=r"training rows have a single class; set data\.stratify"):
        freeze_rows(tmp_path, rows, "classify", candidates=first)


def test_a_label_that_no_training_row_has_is_told(tmp_path):
    rows = [{"text": f"{i}", "answer": "rare" if i < 2 else "ab"[i % 2]} for i in range(12)]
    first = {"validation": np.arange(12), "train": np.arange(12)}
    _, _, said = freeze_rows(tmp_path, rows, "classify", candidates=first)
    (one,) = said
    assert (
        one == "no training row has the label rare; set data.stratify=answer, or give more rows of the "
        "labels that are rare"
    )
    _, _, said = freeze_rows(tmp_path, rows, "classify", candidates=first, stratify="answer", sizes=(4, 2, 0))
    (one,) = said
    assert one.endswith("rare; raise data.sizes.train (4), or give more rows of the labels that are rare")
