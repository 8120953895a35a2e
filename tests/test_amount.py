from sweeper.data.checks.amount import ENOUGH, Amount, cut_off
from sweeper.data.manifest import SplitInfo
from tests.looking import Row, look


def info(rows, cut_inputs, cut_answers):
    return SplitInfo(rows, "digest", 900, cut_inputs, cut_answers, 40, ())


def test_enough_rows_are_no_finding():
    assert look(Amount("classify"), [Row("x")] * ENOUGH["classify"]) == []


def test_few_rows_are_a_warning_and_hardly_any_an_error():
    (few,) = look(Amount("generate"), [Row("x")] * 400)
    (hardly,) = look(Amount("generate"), [Row("x")] * 9)
    (none,) = look(Amount("generate"), [])
    assert (few.severity, hardly.severity, none.severity) == ("warning", "error", "error")
    assert "400 training rows" in few.message
    assert none.message == "There are no rows."


def test_small_splits_measure_badly():
    rows = [Row("x")] * 6000 + [Row("x", split="validation")] * 60 + [Row("x", split="test")] * 200
    (finding,) = look(Amount("generate"), rows)
    assert finding.message.startswith("60 rows in validation")
    assert finding.numbers["test rows"] == 200


def test_what_is_cut_off_is_told_by_split():
    found = cut_off({"train": info(1000, 20, 100), "test": info(100, 0, 0)})
    assert [(one.severity, one.count, one.of) for one in found] == [
        ("note", 20, 1000),
        ("warning", 100, 1000),
    ]
    assert "100 of 1,000 answers in train are cut off at the limit (10.0%)" in found[1].message
    assert "task.max_answer_tokens" in found[1].advice
