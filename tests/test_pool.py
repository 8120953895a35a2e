import pytest

from sweeper.data.pool import gather
from sweeper.data.sources import load
from sweeper.errors import DataError
from tests.rows import chat, configure, pairs, write_jsonl


def pool(tmp_path, rows, kind="generate", **options):
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows), kind, **options)
    return gather(load(config.data), config, tmp_path / "pool.arrow")


def test_rows_with_something_missing_and_duplicates_are_dropped_and_counted(tmp_path):
    rows = [
        {"text": "a", "answer": "b"},
        {"text": "a", "answer": "b"},
        {"text": "a", "answer": "c"},
        {"text": " \n", "answer": "b"},
        {"text": None, "answer": "b"},
        {"answer": "b"},
        {"text": "a", "answer": ""},
        {"text": "a", "answer": float("nan")},
    ]
    found = pool(tmp_path, rows)
    assert found.rows["target"][:] == ["b", "c"]
    assert found.harvested == 8
    assert found.dropped == {"no text": 3, "no answer": 2, "duplicate": 1}
    assert found.groups is None
    assert found.labels == ()


def test_numbers_and_truth_values_become_text(tmp_path):
    rows = [{"text": 1, "answer": "x"}, {"text": "a", "answer": 2.5}, {"text": True, "answer": 3}]
    found = pool(tmp_path, rows)
    assert found.rows["input"][:] == ["1", "a", "True"]
    assert found.rows["target"][:] == ["x", "2.5", "3"]


def test_text_that_utf8_can_not_hold_is_repaired(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "half \\ud83d of it", "answer": "b"}\n')
    config = configure(path)
    found = gather(load(config.data), config, tmp_path / "pool.arrow")
    assert found.rows["input"][0].startswith("half \ufffd")


def test_a_cell_that_holds_a_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.input: row 2 has a list in column `text`; text or a number"):
        pool(tmp_path, [*pairs(1), {"text": ["a"], "answer": "b"}])


def test_columns_become_codes_and_a_missing_group_is_one_of_its_own(tmp_path):
    rows = [
        {"text": f"{i}", "answer": "a", "g": g, "s": g} for i, g in enumerate(["x", "y", "x", None, None])
    ]
    found = pool(tmp_path, rows, group="g", stratify="g", slice="s")
    assert list(found.groups) == [0, 1, 0, 2, 3]
    assert found.rows["slice"][:] == ["x", "y", "x", "", ""]


def test_of_duplicates_over_given_parts_the_one_in_the_test_part_stays(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", pairs(6))
    write_jsonl(tmp_path / "valid.jsonl", pairs(4))
    write_jsonl(tmp_path / "test.jsonl", pairs(2))
    config = configure(tmp_path, parts=("train.jsonl", "valid.jsonl", "test.jsonl"))
    found = gather(load(config.data), config, tmp_path / "pool.arrow")
    assert list(found.parts) == [2, 2, 1, 1, 0, 0]
    assert found.dropped == {"duplicate": 6}


@pytest.mark.parametrize(
    ("values", "labels"),
    [(["b", "a", "B"], ("B", "a", "b")), ([10, 9, 10], ("9", "10")), (["yes", "no", 1], ("1", "no", "yes"))],
)
def test_labels_are_sorted(tmp_path, values, labels):
    rows = [{"text": f"{i}", "answer": values[i % 3]} for i in range(12)]
    assert pool(tmp_path, rows, "classify").labels == labels


def test_chats_keep_their_messages_and_lose_the_malformed(tmp_path):
    found = pool(tmp_path, [chat("hi", "hello"), chat("hi"), {"messages": None}], "chat")
    assert (
        found.rows["input"][0]
        == '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]'
    )
    assert found.dropped == {"malformed messages": 2}


def test_rows_of_which_nothing_is_left(tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl holds no rows"):
        pool(tmp_path, [])
    with pytest.raises(DataError, match="every one of 3 rows lacks `answer`"):
        pool(tmp_path, [{"text": "a", "answer": None}] * 3)
    with pytest.raises(DataError, match=r"of 2 rows none is usable .1 no text, 1 no answer."):
        pool(tmp_path, [{"text": "", "answer": "a"}, {"text": "a", "answer": ""}])
    with pytest.raises(DataError, match=r'all 2 rows are malformed; right is \[\{"role": "user"'):
        pool(tmp_path, [{"messages": [{"from": "human", "value": "a"}]}] * 2, "chat")


def test_labels_that_are_no_classes(tmp_path):
    with pytest.raises(DataError, match="`answer` has a single class, 'a'; two are needed"):
        pool(tmp_path, [{"text": f"{i}", "answer": "a"} for i in range(5)], "classify")
    with pytest.raises(DataError, match="`answer` has 30 different values in 30 rows; that is no class"):
        pool(tmp_path, pairs(30), "classify")
    with pytest.raises(DataError, match="has over 1000 different values"):
        pool(tmp_path, pairs(1500), "classify")
