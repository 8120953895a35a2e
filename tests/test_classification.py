"""Metrics of classes against scikit-learn, and values worked out by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from sweeper.metrics import score
from tests.measuring import classes, drawn_classes, task

SKLEARN = (("f1", f1_score), ("precision", precision_score), ("recall", recall_score))


def scored(answers, metric="macro_f1"):
    return score(task("classify", metric), answers)


def test_classification_equals_scikit_learn():
    draw = np.random.default_rng(1)
    true = draw.integers(0, 4, 80)
    predicted = np.where(draw.random(80) < 0.6, true, draw.integers(0, 6, 80))  # 4 and 5 are never true
    scores = scored(classes(predicted, true))
    assert scores.metrics["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        wanted = balanced_accuracy_score(true, predicted)
    assert scores.metrics["balanced_accuracy"] == pytest.approx(wanted)
    for name, function in SKLEARN:
        for average in ("macro", "micro"):
            wanted = function(true, predicted, average=average, zero_division=0)
            assert scores.metrics[f"{average}_{name}"] == pytest.approx(wanted)
        wanted = function(true, predicted, average=None, zero_division=0)
        assert [one.metrics[name] for one in scores.slices] == pytest.approx(list(wanted))
    assert [one.rows for one in scores.slices] == [*np.bincount(true), 0, 0]
    assert scores.confusion.counts == tuple(map(tuple, confusion_matrix(true, predicted)))


@pytest.mark.parametrize("size", [2, 4])
def test_auroc_equals_scikit_learn(size):
    answers = drawn_classes(60, size)
    answers.probabilities[::3] = np.round(answers.probabilities[::3], 1)  # ties
    answers = classes(answers.predicted, answers.true, answers.probabilities)
    each = [roc_auc_score(answers.true == c, answers.probabilities[:, c]) for c in range(size)]
    assert scored(answers).metrics["auroc"] == pytest.approx(np.mean(each))
    exact = drawn_classes(60, size)
    shares = exact.probabilities if size > 2 else exact.probabilities[:, 1]
    wanted = roc_auc_score(exact.true, shares, multi_class="ovr")
    assert scored(exact).metrics["auroc"] == pytest.approx(wanted)


def test_rows_of_a_single_class_have_no_auroc():
    scores = scored(classes([0, 1, 0], [0, 0, 0]), "auroc")
    assert math.isnan(scores.objective)
    assert math.isnan(scores.error)


def test_auroc_with_one_row_of_a_class_has_no_error():
    scores = scored(classes([0, 1, 0], [0, 1, 0]), "auroc")
    assert scores.objective == 1
    assert math.isnan(scores.error)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    found = scored(classes([0, 0, 0, 0], [0, 0, 0, 1], shares)).metrics["calibration_error"]
    assert found == pytest.approx((abs(1.8 - 2) + abs(1.2 - 1)) / 4)
    certain = classes([0, 1], [0, 1], np.eye(2))
    assert scored(certain).metrics["calibration_error"] == 0


def test_the_error_of_a_macro_average_leaves_out_each_row_in_turn():
    answers = drawn_classes(30, 3, right=0.3)
    for name in ("macro_f1", "macro_precision", "macro_recall", "balanced_accuracy"):
        without = []
        for left_out in range(30):
            rows = np.delete(np.arange(30), left_out)
            part = classes(answers.predicted[rows], answers.true[rows], answers.probabilities[rows])
            without.append(scored(part, name).objective)
        wanted = math.sqrt(29 / 30 * np.sum((np.array(without) - np.mean(without)) ** 2))
        assert scored(answers, name).error == pytest.approx(wanted)


def test_with_many_classes_the_most_frequent_ones_are_told_and_no_confusion():
    true = np.concatenate([np.arange(60), np.arange(30)])
    scores = scored(classes(true, true))
    assert scores.confusion is None
    assert len(scores.slices) == 50
    assert {one.value for one in scores.slices} >= {f"c{i}" for i in range(30)}
