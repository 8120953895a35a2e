from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.data.cells import as_time
from sweeper.data.cleaning import KEPT
from sweeper.data.pool import gather
from sweeper.data.sources import load
from sweeper.errors import DataError
from tests.rows import chat, configure, pairs, write_jsonl

STEPS = configure(None).data.cleaning


def pool(tmp_path, rows, kind="generate", **options):
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows), kind, **options)
    return gather(load(config.data), config, tmp_path / "pool.arrow")


def test_rows_with_something_missing_are_dropped_and_duplicates_marked(tmp_path):
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
    assert found.rows["target"][:] == ["b", "b", "c"]
    assert list(found.left_out) == [KEPT, STEPS.index("exact_duplicates"), KEPT]
    assert found.harvested == 8
    assert found.dropped == {"no text": 3, "no answer": 2}
    assert found.without(STEPS) == "3 no text, 2 no answer, 1 exact_duplicates"
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
    kept = found.left_out == KEPT
    assert list(found.parts[kept]) == [2, 2, 1, 1, 0, 0]
    assert len(kept) == 12
    assert list(found.alike[:2]) == list(found.alike[2:4]) == list(found.alike[6:8])


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
    with pytest.raises(
        DataError,
        match=r"all 2 rows are malformed; e\.g\. row 1: .messages. message 1 has no role",
    ):
        pool(tmp_path, [{"messages": [{"author": "human", "said": "a"}]}] * 2, "chat")


def test_labels_that_are_no_classes(tmp_path):
    with pytest.raises(DataError, match="`answer` has a single class, 'a'; two are needed"):
        pool(tmp_path, [{"text": f"{i}", "answer": "a"} for i in range(5)], "classify")
    with pytest.raises(DataError, match="`answer` has 30 different values in 30 rows; that is no class"):
        pool(tmp_path, pairs(30), "classify")
    with pytest.raises(DataError, match="has over 1000 different values"):
        pool(tmp_path, pairs(1500), "classify")


def test_times_are_numbers_and_rows_without_one_are_dropped(tmp_path):
    midnight = 1717113600.0
    for days, times in (
        (
            ["2024-05-31", "2024-05-31T00:00:01Z", None, "2024-05-31 02:00:00+02:00"],
            [midnight, midnight + 1, midnight],
        ),
        ([17, "18.5", " ", -3], [17.0, 18.5, -3.0]),
    ):
        rows = [{**row, "day": day} for row, day in zip(pairs(4), days, strict=True)]
        found = pool(tmp_path, rows, time="day")
        assert list(found.times) == times
        assert found.dropped == {"no day": 1}
        assert pool(tmp_path, rows).times is None


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (
            ["2024-05-31", "", "2025"],
            "row 3 has '2025' in column `day`, where rows before it have dates; write",
        ),
        ([2024, "2024-05-31"], "row 2 has '2024-05-31' .* before it have numbers; .* or all as numbers"),
    ],
)
def test_years_and_dates_in_one_column_are_not_compared(tmp_path, days, said):
    rows = [{**row, "day": day} for row, day in zip(pairs(len(days)), days, strict=True)]
    with pytest.raises(DataError, match=rf"data\.time: {said}"):
        pool(tmp_path, rows, time="day")


def test_dates_of_a_parquet_file_are_times(tmp_path):
    days = [datetime(2024, 5, 31), datetime(2024, 5, 31, 0, 0, 1)]
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": ["a", "b"], "answer": ["c", "d"], "day": pa.array(days, pa.timestamp("s"))})
    pq.write_table(table, path)
    config = configure(path, time="day")
    found = gather(load(config.data), config, tmp_path / "pool.arrow")
    assert list(np.diff(found.times)) == [1.0]
    assert as_time(date(2024, 5, 31)) == (found.times[0], "dates")


@pytest.mark.parametrize("value", ["yesterday", ["2024"], True])
def test_what_tells_no_time_is_named(tmp_path, value):
    with pytest.raises(DataError, match=r"data\.time: row 1 has .* in column `day`; a date or time as 2024"):
        pool(tmp_path, [{**pairs(1)[0], "day": value}], time="day")
    if not isinstance(value, str):
        with pytest.raises(ValueError, match="tells no time"):
            as_time(value)


def test_cleaned_texts_stand_beside_the_raw_ones(tmp_path):
    rows = [{"text": "a ", "answer": "b"}, {"text": "c", "answer": "\u00fc \u00a0d"}]
    found = pool(tmp_path, rows, cleaning=("whitespace",))
    assert found.rows["input"][:] == ["a ", "c"]
    assert found.rows["clean_input"][:] == ["a", None]
    assert found.rows["clean_target"][:] == [None, "\u00fc  d"]
    assert list(found.changed) == [1, 1]


def test_rows_that_are_alike_share_a_number(tmp_path):
    text = "one two three four five six seven eight nine ten"
    rows = [{"text": said, "answer": "x"} for said in (text, f"{text} more", "other", text)]
    found = pool(tmp_path, rows)
    assert [list(found.alike).index(code) for code in found.alike] == [0, 0, 2, 0]
    found = pool(tmp_path, rows, keep_together=False)
    assert [list(found.alike).index(code) for code in found.alike] == [0, 1, 2, 0]
    found = pool(tmp_path, rows, keep_together=False, cleaning=("near_duplicates",))
    assert list(found.left_out) == [KEPT, 0, KEPT, 0]


def test_a_copy_belongs_to_the_first_though_an_early_step_left_it_out(tmp_path):
    rows = [{"text": "GrÃ¶ÃŸe Ã¼ber Ã¼ber Ã¼ber", "answer": "x"}] * 2
    found = pool(tmp_path, rows, cleaning=("exact_duplicates", "encoding"))
    assert list(found.left_out) == [KEPT, 0]
    assert found.alike[0] == found.alike[1]
