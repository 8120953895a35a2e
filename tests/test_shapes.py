import random
from dataclasses import replace

import pytest

from sweeper.data.checks.shapes import Formats, LengthOutliers
from tests.looking import Row, clean_rows, look, prose, suspected, table

ROWS = 1000


@pytest.mark.parametrize(
    ("usual", "odd"),
    [
        ("2024-{:02}-{:02}", "{1}.{0}.2024"),
        ("{:02}/{:02}/2024", "2024/{0}/{1}"),
        ("{:02}/21/2024", "13/{0}/2024"),
        ("{:02}/21/2024", "March {1}, 2024"),
        ("{0}.{1}5", "{0},{1}5"),
        ("{0} May 2024", "2024-05-{0:02}"),
        ("$1,00{0}.5{1}", "{0}.00{1},5 €"),
    ],
)
@pytest.mark.parametrize("field", ["text", "target"])
def test_the_odd_format_is_counted(usual, odd, field):
    rng = random.Random(0)
    rows = clean_rows(ROWS)
    planted = set(rng.sample(range(ROWS), 40))
    for number in range(ROWS):
        month, day = rng.randint(1, 9), rng.randint(1, 9)
        value = (odd if number in planted else usual).format(month, day)
        rows[number] = replace(rows[number], **{field: value})
    (finding,) = look(Formats("generate"), rows)
    assert finding.count == len(planted)
    assert {int(example.row) for example in finding.examples} <= planted
    print(f"{usual:28} planted {len(planted):4} counted {finding.count}: {finding.message}")


@pytest.mark.parametrize(
    "values",
    [
        ["1/2/2024", "12/31/2024", "3/4/2024"],
        ["1.234", "1,234", "2.5"],
        ["yes", "no", "yes"],
        ["version 1.2.3", "10:30", "1-2"],
    ],
)
def test_what_may_be_one_format_is_no_finding(values):
    assert look(Formats("generate"), [Row("text", value) for value in values * 10]) == []


def test_casing_of_short_answers():
    values = ["Pair for Tensor-like inputs.", "Pair for tensor-like inputs."]  # sentences
    values += ["yes"] * 20 + ["Yes"] * 3 + ["NO"] * 4 + ["no"] * 9 + ["Paris"]
    rows = [Row("a question", value) for value in values]
    (finding,) = look(Formats("generate"), rows)
    assert finding.count == 3 + 4
    assert "`Yes` (3), `yes` (20)" in finding.message
    assert look(Formats("classify"), rows) == []


def test_planted_outliers_in_length_are_found_and_nothing_else():
    rng = random.Random(1)
    rows = clean_rows(ROWS)
    long, short = set(range(100, 120)), set(range(500, 520))
    for number in long:
        rows[number] = Row(prose(rng, 2000), rows[number].target)
    for number in short:
        rows[number] = Row("Brief.", rows[number].target)
    findings = look(LengthOutliers("generate"), rows)
    recall, alarms = table("length", suspected(findings), long | short, ROWS)
    assert (recall, alarms) == (1, 0)
    assert [finding.count for finding in findings] == [20, 20]
    assert all(finding.numbers["median input length"] > 300 for finding in findings)


def test_a_wide_spread_of_lengths_has_no_outliers():
    rng = random.Random(2)
    rows = [Row("x" * round(rng.lognormvariate(6, 1)), "y" * rng.randint(10, 60)) for _ in range(3000)]
    findings = look(LengthOutliers("generate"), rows)
    assert sum(finding.count for finding in findings) <= 3


def test_few_rows_have_no_outliers_and_labels_no_length():
    assert look(LengthOutliers("generate"), [Row("x"), Row("x" * 9999)]) == []
    rows = [Row("the same text", "a" * (1 if number else 900)) for number in range(100)]
    assert look(LengthOutliers("classify"), rows) == []
    assert look(LengthOutliers("generate"), rows)[0].count == 1
