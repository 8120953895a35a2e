import math
import random

import pytest

from sweeper.data.checks.bias import Bias, Moments, mean_gap, rate_gap, wilson
from tests.looking import Row, look, prose


def test_intervals_are_those_of_the_literature():
    """Newcombe, Statistics in Medicine 17 (1998): pages 857-872 (81 of 263), 873-890 (56 of 70, 48 of 80)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert rate_gap(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert wilson(0, 20)[0] == pytest.approx(0)
    assert wilson(20, 20)[1] == pytest.approx(1)


def test_the_interval_of_means_is_welchs():
    from scipy.stats import ttest_ind

    rng = random.Random(0)
    a, b = [rng.gauss(1, 2) for _ in range(40)], [rng.gauss(0, 1) for _ in range(90)]
    one, other = Moments(), Moments()
    for value in a:
        one.add(value)
    for value in b:
        other.add(value)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.99)
    assert mean_gap(one, other, 0.01) == pytest.approx((expected.low, expected.high))


def labelled(rates, size=1000, seed=0):
    """Rows of groups with the label `yes` at these rates."""
    rng = random.Random(seed)
    return [
        Row("text", "yes" if rng.random() < rate else "no", group=group)
        for group, rate in rates.items()
        for _ in range(size)
    ]


def test_a_gap_in_label_rates_is_told_with_its_interval():
    rows = labelled({"north": 0.5, "south": 0.5, "west": 0.5, "east": 0.25}, 3000)
    (finding,) = look(Bias("classify", {}), rows)
    assert "of the rows of east" in finding.message
    assert finding.count == 3000
    assert finding.numbers["low"] < -0.25 < finding.numbers["high"] < 0


def test_equal_groups_raise_no_alarm():
    alarms = sum(
        bool(look(Bias("classify", {}), labelled(dict.fromkeys("abcdef", 0.4), 60, seed)))
        for seed in range(40)
    )
    print(f"groups without a gap: {alarms} alarms in 40 data sets")
    assert alarms <= 4


def test_of_two_groups_and_two_labels_the_gap_is_told_once():
    assert len(look(Bias("classify", {}), labelled({"a": 0.8, "b": 0.3}))) == 1


def test_groups_that_are_the_labels_have_no_rates():
    assert look(Bias("classify", {}), [Row("text", label, group=label) for label in "abc" * 100]) == []


def test_small_groups_and_shares_are_told_but_not_compared():
    rows = [*labelled({"a": 0.5, "b": 0.5}), *[Row("text", "yes", group="c")] * 12]
    (finding,) = look(Bias("classify", {}), rows)
    assert finding.check == "representation"
    assert "1 of 3 groups" in finding.message
    assert "c 0.6%" in finding.message
    assert "1 with under 30 rows" in finding.message


def test_answer_lengths_of_rows_that_speak_of_a_group():
    rng = random.Random(3)
    terms = {"women": ["she", "her"], "men": ["he", "his"]}
    rows = []
    for number in range(900):
        who = ("She", "he", "it")[number % 3]
        words = round(rng.lognormvariate(3, 0.4) * (0.6 if who == "She" else 1)) + 3
        rows.append(Row(f"{who} {prose(rng, 20)} there, sheep", prose(rng, words)))
    findings = look(Bias("generate", terms), rows)
    women = next(finding for finding in findings if "women" in finding.message)
    assert women.count == 300
    assert women.numbers["low"] < women.numbers["gap"] < women.numbers["high"] < 0.85
    assert math.isclose(women.numbers["gap"], 0.65, abs_tol=0.1)


def test_no_groups_no_finding():
    assert look(Bias("generate", {}), [Row("text", "answer")] * 100) == []
    assert look(Bias("generate", {"nobody": []}), [Row("text", "answer", group="one")] * 100) == []
