"""Predicted classes beside the true ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.messages import Confusion
from sweeper.metrics.answers import Classes, Floats
from sweeper.metrics.measured import NOWHERE, Mean, Measured, Rows, Sums, jackknife, share

MOST_CLASSES = 50
"""With more classes there is no confusion matrix."""

_BINS = 15
"""As many as in Guo et al., 2017."""

Ints = NDArray[np.intp]
_Formula = Callable[[Floats, Floats, Floats], Floats]


def _precision(hits: Floats, predicted: Floats, true: Floats) -> Floats:
    return share(hits, predicted)


def _recall(hits: Floats, predicted: Floats, true: Floats) -> Floats:
    return share(hits, true)


def _f1(hits: Floats, predicted: Floats, true: Floats) -> Floats:
    return share(2 * hits, predicted + true)


_FORMULAS: Mapping[str, _Formula] = {"precision": _precision, "recall": _recall, "f1": _f1}
"""From counts per class to values per class, with scikit-learn's `zero_division=0`."""


def measure(answers: Classes) -> Mapping[str, Measured]:
    """Every metric of classes but the loss; macro averages are over the classes that occur.

    With one label a row and every class counted, micro precision, recall and F1 all are the accuracy.
    """
    predicted, true = np.asarray(answers.predicted), np.asarray(answers.true)
    accuracy = Mean(np.equal(predicted, true).astype(np.float64))
    return {
        "accuracy": accuracy,
        "balanced_accuracy": Macro(predicted, true, _recall, "true"),
        **{f"macro_{name}": Macro(predicted, true, formula, "any") for name, formula in _FORMULAS.items()},
        **{f"micro_{name}": accuracy for name in _FORMULAS},
        "auroc": Auroc(np.asarray(answers.probabilities), true),
        "calibration_error": Calibration(np.asarray(answers.probabilities), accuracy.per_row),
    }


def of_class(answers: Classes, number: int) -> Mapping[str, Measured]:
    """Precision, recall and F1 of one class."""
    is_predicted = np.equal(answers.predicted, number).astype(np.float64)
    is_true = np.equal(answers.true, number).astype(np.float64)
    parts = np.stack([is_predicted * is_true, is_predicted, is_true], axis=-1)
    return {name: Sums(parts, _over_last(formula)) for name, formula in _FORMULAS.items()}


def _over_last(formula: _Formula) -> Callable[[Floats], Floats]:
    return lambda sums: formula(sums[..., 0], sums[..., 1], sums[..., 2])


def confusion(answers: Classes) -> Confusion | None:
    """How often each class was taken for each other; None with more than MOST_CLASSES."""
    size = len(answers.labels)
    if size > MOST_CLASSES:
        return None
    cells = np.asarray(answers.true) * size + np.asarray(answers.predicted)
    counts = np.bincount(cells, minlength=size * size).reshape(size, size)
    return Confusion(tuple(answers.labels), tuple(tuple(map(int, row)) for row in counts))


@dataclass(frozen=True)
class Macro:
    """The mean over classes of a formula of their (hits, predicted, true) counts.

    `over`: those classes that any row has or is taken for, or those that rows truly have.
    """

    predicted: Ints
    true: Ints
    formula: _Formula
    over: Literal["any", "true"]
    per_row: Floats | None = None

    def value(self, rows: Rows) -> float:
        counts, occurs = self._counts(self.predicted[rows], self.true[rows])
        return float(self.formula(*counts)[occurs].mean())

    def error(self, rows: Rows) -> float:
        """By the jackknife: a row left out changes at most the two classes it speaks of."""
        if len(rows) < 2:
            return NOWHERE
        predicted, true = self.predicted[rows], self.true[rows]
        counts, occurs = self._counts(predicted, true)
        values = self.formula(*counts)
        hit = (predicted == true).astype(np.float64)
        without = values[occurs].sum() + self._change(counts, true, (hit, hit, 1))
        # Of a hit it is the same class, whose change is told already.
        without += self._change(counts, predicted, (0, 1, 0)) * (1 - hit) * occurs[predicted]
        return jackknife(without / occurs.sum())

    def _change(
        self, counts: tuple[Floats, Floats, Floats], classes: Ints, less: Sequence[Floats | int]
    ) -> Floats:
        """By how much the value of each row's class changes with so many less hits, predicted and true."""
        before = [count[classes] for count in counts]
        after = [count - taken for count, taken in zip(before, less, strict=True)]
        return self.formula(*after) - self.formula(*before)

    def _counts(self, predicted: Ints, true: Ints) -> tuple[tuple[Floats, Floats, Floats], NDArray[np.bool_]]:
        """Hits, predicted and true rows of every class, and which classes occur."""
        size = int(max(predicted.max(), true.max())) + 1
        hits = np.bincount(true[predicted == true], minlength=size).astype(np.float64)
        as_predicted = np.bincount(predicted, minlength=size).astype(np.float64)
        as_true = np.bincount(true, minlength=size).astype(np.float64)
        occurs = as_true > 0 if self.over == "true" else as_predicted + as_true > 0
        return (hits, as_predicted, as_true), occurs


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve of every class against the rest, averaged over the classes that occur.

    The area is the chance that a row of the class gets a higher probability for it than one of the rest
    (Hanley and McNeil, 1982); equal ones count half. NaN for rows of a single class.
    """

    probabilities: Floats
    true: Ints
    per_row: Floats | None = None

    def value(self, rows: Rows) -> float:
        areas = [above.mean() for above, _ in self._placements(rows).values()]
        return float(np.mean(areas)) if areas else NOWHERE

    def error(self, rows: Rows) -> float:
        """By the jackknife, on DeLong's placement values (1988); NaN where a side has a single row."""
        true = self.true[rows]
        found = self._placements(rows)
        if not found or any(min(len(above), len(below)) < 2 for above, below in found.values()):
            return NOWHERE
        without = np.zeros(len(rows))
        for number, (above, below) in found.items():
            without[true == number] += (above.sum() - above) / (len(above) - 1)
            without[true != number] += (below.sum() - below) / (len(below) - 1)
        return jackknife(without / len(found))

    def _placements(self, rows: Rows) -> dict[int, tuple[Floats, Floats]]:
        """By class: for its rows the share of others below, for the others the share of its rows above."""
        true, found = self.true[rows], {}
        for number in np.unique(true):
            scores, is_class = self.probabilities[rows, number], true == number
            if is_class.all():
                continue
            own, others = scores[is_class], scores[~is_class]
            found[int(number)] = (_share_below(own, others), 1 - _share_below(others, own))
        return found


def _share_below(values: Floats, others: Floats) -> Floats:
    """For each value the share of `others` that is smaller, equal ones counted half."""
    others = np.sort(others)
    left, right = np.searchsorted(others, values, "left"), np.searchsorted(others, values, "right")
    found: Floats = (left + right) / (2 * len(others))
    return found


class Calibration(Sums):
    """Expected calibration error: how far confidence and accuracy are apart, over bins of equal width.

    Naeini et al., 2015; Guo et al., "On Calibration of Modern Neural Networks", 2017. Few rows make it too
    large, more so than they make it vary: it has no standard error.
    """

    def __init__(self, probabilities: Floats, hits: Floats | None) -> None:
        confidence = probabilities.max(-1)
        bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
        parts = np.zeros((len(bins), _BINS + 1))
        parts[np.arange(len(bins)), bins] = confidence - hits
        parts[:, -1] = 1
        super().__init__(parts, lambda sums: share(np.abs(sums[..., :-1]).sum(-1), sums[..., -1]))

    def error(self, rows: Rows) -> float:
        return NOWHERE
