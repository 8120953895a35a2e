"""Slices: a planted weak one is found, lengths in thirds, many values bounded, too few rows refused."""

import math

import numpy as np
import pytest

from sweeper.errors import DataError
from sweeper.metrics import About, Slicing, check, score
from tests.measuring import classes, losses, task, texts


def about(slices, groups=None, lengths=None, labels=None):
    n = len(slices)
    return About(slices, groups or [""] * n, lengths or [7] * n, labels or [-1] * n)


def sliced(rows):
    return Slicing.of(rows).over(rows)


def matches(right):
    """Texts of which those marked are exactly right, the others not at all."""
    outputs = ["yes" if one else "no" for one in right]
    return texts(outputs, ["yes"] * len(outputs), [""] * len(outputs))


def by(scores, what):
    return {one.value: one for one in scores.slices if one.by == what}


def test_a_planted_weak_slice_is_found():
    draw = np.random.default_rng(0)
    values = [["strong", "fair", "weak"][i % 3] for i in range(120)]
    chance = {"strong": 0.9, "fair": 0.7, "weak": 0.2}
    right = [draw.random() < chance[value] for value in values]
    names = ("slice_gap.exact_match", "worst_slice.loss")
    wanted = task("generate", "worst_slice.exact_match", *names)
    scores = score(wanted, matches(right), sliced(about(values)))
    found = by(scores, "slice")
    weak, strong = found["weak"], found["strong"]
    assert [one.rows for one in found.values()] == [40, 40, 40]
    assert (
        scores.objective
        == weak.metrics["exact_match"]
        == min(o.metrics["exact_match"] for o in found.values())
    )
    mine = [one for one, value in zip(right, values, strict=True) if value == "weak"]
    assert scores.objective == np.mean(mine)
    assert scores.error == weak.errors["exact_match"] == pytest.approx(np.std(mine, ddof=1) / math.sqrt(40))
    gap = strong.metrics["exact_match"] - weak.metrics["exact_match"]
    assert scores.metrics["slice_gap.exact_match"] == pytest.approx(gap)
    wanted_error = math.hypot(strong.errors["exact_match"], weak.errors["exact_match"])
    assert scores.errors["slice_gap.exact_match"] == pytest.approx(wanted_error)
    assert "worst_slice.exact_match" not in weak.metrics


def test_the_worst_of_what_is_minimized_is_the_largest():
    answers = matches([True] * 12)
    answers = type(answers)(
        [1.0] * 6 + [3.0] * 6, [1] * 12, answers.outputs, answers.references, answers.prompts
    )
    scores = score(task("generate", "worst_slice.loss"), answers, sliced(about(["a"] * 6 + ["b"] * 6)))
    assert scores.objective == 3


def test_slices_with_too_few_rows_do_not_count_for_the_worst():
    values, right = ["a"] * 6 + ["b"] * 6 + ["c"] * 3, [True] * 10 + [False] * 5
    rows = sliced(about(values))
    assert score(task("generate", "worst_slice.exact_match"), matches(right), rows).objective == 4 / 6
    few = score(task("generate", "worst_slice.exact_match", slice_rows=3), matches(right), rows)
    assert few.objective == 0
    none = score(task("generate", "worst_slice.exact_match", slice_rows=7), matches(right), rows)
    assert math.isnan(none.objective)
    assert by(few, "slice")["c"].rows == 3


def test_many_values_are_bounded_and_counted():
    values = [f"v{i % 5000:04d}" for i in range(10_000)] + ["common"] * 3 + [""] * 4
    shown = sliced(about(values)).shown
    assert len(shown) == 22
    assert shown[0].value == "common"
    assert (shown[20].value, len(shown[20].rows)) == ("4,981 other values", 9962)
    assert (shown[21].value, len(shown[21].rows)) == ("no value", 4)


def test_the_worst_is_looked_for_beyond_the_values_that_are_shown():
    values = ["a"] * 7 + [f"v{i // 5:02d}" for i in range(125)]
    right = [True] * 127 + [False] * 5
    scores = score(task("generate", "worst_slice.exact_match"), matches(right), sliced(about(values)))
    assert scores.objective == 0
    assert "v24" not in by(scores, "slice")


def test_rows_without_a_value_are_no_slice_to_compare():
    values, right = ["a"] * 5 + ["b"] * 5 + [""] * 5, [True] * 10 + [False] * 5
    scores = score(task("generate", "slice_gap.exact_match"), matches(right), sliced(about(values)))
    assert scores.objective == 0
    assert by(scores, "slice")["no value"].metrics["exact_match"] == 0


def test_lengths_fall_into_thirds_that_the_validation_rows_fix():
    lengths = list(range(10, 40))
    validation = about([""] * 30, lengths=lengths)
    slicing = Slicing.of(validation)
    assert [(one.value, len(one.rows)) for one in slicing.over(validation).shown] == [
        ("up to 19 tokens", 10),
        ("up to 29 tokens", 10),
        ("over 29 tokens", 10),
    ]
    test = slicing.over(about([""] * 3, lengths=[19, 20, 99]))
    assert [list(one.rows) for one in test.compared["length"]] == [[0], [1], [2]]


def test_rows_of_one_length_have_no_length_slices():
    assert sliced(about([""] * 9)).shown == ()
    two = sliced(about([""] * 9, lengths=[5] * 3 + [8] * 6)).shown
    assert [(one.value, len(one.rows)) for one in two] == [("up to 5 tokens", 3), ("over 5 tokens", 6)]


def test_groups_that_are_the_slices_are_shown_once():
    same, other = ["a", "b"] * 5, ["x"] * 5 + ["y"] * 5
    assert {one.by for one in sliced(about(same, same)).shown} == {"slice"}
    assert len(sliced(about(same, same)).compared["group"]) == 2
    assert {one.by for one in sliced(about(same, other)).shown} == {"slice", "group"}


def test_test_rows_fall_into_the_slices_of_the_validation_rows():
    slicing = Slicing.of(about(["a"] * 3 + ["b"] * 2, labels=[0, 0, 0, 1, 1]))
    shown = slicing.over(about(["b", "c", "a", "b"], labels=[0, 1, 0, 0])).shown
    assert [(one.value, list(one.rows)) for one in shown] == [
        ("a", [2]),
        ("b", [0, 3]),
        ("1 other value", [1]),
    ]
    assert slicing.rarest == 1


def test_the_rarest_class_is_that_of_the_validation_rows():
    true, predicted = [0] * 9 + [1] * 6 + [2] * 8, [0] * 9 + [1, 1, 0, 0, 0, 0] + [2] * 8
    rows = about([""] * 23, labels=true)
    wanted = task("classify", "rarest_class.recall", "rarest_class.precision", "rarest_class.f1")
    scores = score(wanted, classes(predicted, true), sliced(rows))
    assert scores.objective == pytest.approx(2 / 6)
    assert scores.metrics["rarest_class.precision"] == 1
    assert scores.metrics["rarest_class.f1"] == pytest.approx(4 / 8)
    assert scores.error == by(scores, "label")["c1"].errors["recall"]
    elsewhere = Slicing.of(rows).over(about([""] * 2, labels=[0, 2]))
    assert math.isnan(score(wanted, classes([0, 2], [0, 2]), elsewhere).objective)


def test_without_slices_there_is_no_metric_over_them():
    assert math.isnan(score(task("generate", "worst_length.loss"), matches([True] * 3)).objective)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            "worst_slice.loss",
            r"`worst_slice.loss` compares values of data.slice with at least 5 validation rows each "
            r"\(task.evaluation.slice_rows\), and needs two; found: a 8, b 3. Raise data.sizes.valid",
        ),
        ("group_gap.loss", r"compares values of data.group .* found: no value at all\. "),
        ("worst_length.loss", r"compares lengths with .* found: any 11\. "),
    ],
)
def test_too_few_rows_for_a_metric_over_slices_are_refused(metric, said):
    rows = about(["a"] * 8 + ["b"] * 3)
    with pytest.raises(DataError, match=said):
        check(task("generate", metric), rows)
    check(task("generate", "loss"), rows)


def test_too_few_rows_of_the_rarest_class_are_refused():
    rows = about([""] * 11, labels=[0] * 8 + [1] * 3)
    with pytest.raises(DataError, match=r"the rarest class has 3 validation rows, and 5 are needed .*Raise"):
        check(task("classify", "rarest_class.f1"), rows)
    check(task("classify", "rarest_class.f1", slice_rows=3), rows)


def test_losses_alone_have_slices_too():
    from sweeper.metrics import Answers

    rows = sliced(about(["a", "b"] * 5))
    found = by(score(task("chat", "worst_slice.loss"), Answers(**losses(10)), rows), "slice")
    assert {value: one.metrics["loss"] for value, one in found.items()} == {"a": 1, "b": 1}
