"""Every metric of a task, over all rows and over slices of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sweeper.comparison import jackknife_rows
from sweeper.config import TaskConfig
from sweeper.config.metrics import MetricName, metric_direction
from sweeper.messages import Confusion, SliceScores
from sweeper.metrics.answers import Answers, Classes, Floats
from sweeper.metrics.classification import MOST_CLASSES, Auroc, confusion, of_class
from sweeper.metrics.measured import NOWHERE, Measured, Rows
from sweeper.metrics.registry import measure
from sweeper.metrics.slices import Slice, Slices


@dataclass(frozen=True)
class Scores:
    """Every metric of a task over the same rows."""

    objective: float
    error: float
    """Standard error of `objective` over the rows; NaN where it has none, e.g. for a single row."""
    metrics: Mapping[str, float]
    """The usual ones of the task kind, then those that the task names."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of those metrics that have one."""
    rows: Mapping[str, Floats] = field(default_factory=dict)
    """Per-row values, [n] each, of those metrics that a single row has."""
    slices: tuple[SliceScores, ...] = ()
    confusion: Confusion | None = None
    objective_rows: tuple[float, ...] = ()
    """[n] as `objective_rows` gives them, to six digits; empty where there are none, for AUROC, and with more
    rows than `MOST_ROWS`."""


MOST_ROWS = 2000
"""Rows up to which the objective of each is worth its room, about 10 bytes, and its time. Trials that this
many rows can't tell apart are as good as each other."""


def score(task: TaskConfig, answers: Answers, slices: Slices | None = None) -> Scores:
    """Every metric of `task.kind`, computed on `answers`: `Texts`, `Classes` or plain `Answers`.

    `slices` tells the same rows apart. Without it there are no slices, and no metric over them has a value.

    Standard errors are by the jackknife over rows, which for a mean is std/sqrt(n); loss and perplexity are
    ratios of sums. That of a worst slice is the metric's in this slice, that of a gap both slices' together.
    Raises TrialError if a metric that another package adds fails.
    """
    slices = slices or Slices({"slice": (), "group": (), "length": ()}, ())
    measured = measure(task, answers)
    everything = np.arange(len(answers.loss_sums))
    found = {name: (one.value(everything), one.error(everything)) for name, one in measured.items()}
    for name in task.named_metrics:
        if name not in found:
            found[name] = _derived(name, measured, answers, slices, task.evaluation.slice_rows)
    objective, error = found[task.objective.metric]
    per_row = {name: one.per_row for name, one in measured.items()}
    shown = [_slice_scores(one, measured) for one in slices.shown]
    taken_for = None
    if isinstance(answers, Classes):
        shown += _class_scores(answers)
        taken_for = confusion(answers)
    return Scores(
        objective,
        error,
        {name: value for name, (value, _) in found.items()},
        {name: error for name, (_, error) in found.items() if not math.isnan(error)},
        {name: values for name, values in per_row.items() if values is not None},
        tuple(shown),
        taken_for,
        _few_rows(measured.get(task.objective.metric), len(everything)),
    )


def objective_rows(task: TaskConfig, answers: Answers) -> Floats | None:
    """[n] a value of the objective for every row, with the objective as their mean, to pair runs by.

    A mean over rows has them by itself, others get them by the jackknife. None for metrics over slices and
    for those without a standard error.
    """
    return _rows_of(measure(task, answers).get(task.objective.metric), len(answers.loss_sums))


def _few_rows(metric: Measured | None, count: int) -> tuple[float, ...]:
    # For AUROC the jackknife is no formula of sums: 2,000 rows of 20 classes took 27 s.
    skips = count > MOST_ROWS or isinstance(metric, Auroc)
    rows = None if skips else _rows_of(metric, count)
    return () if rows is None else tuple(float(f"{one:.6g}") for one in rows)


def _rows_of(metric: Measured | None, count: int) -> Floats | None:
    everything = np.arange(count)
    value = NOWHERE if metric is None else metric.value(everything)
    if metric is None or not math.isfinite(value) or math.isnan(metric.error(everything)):
        return None
    if metric.per_row is not None and math.isclose(metric.per_row.mean(), value, rel_tol=1e-9, abs_tol=1e-12):
        return metric.per_row
    rows = jackknife_rows(value, [metric.value(np.delete(everything, row)) for row in everything])
    return rows if np.isfinite(rows).all() else None


def _derived(
    name: str, measured: Mapping[str, Measured], answers: Answers, slices: Slices, least: int
) -> tuple[float, float]:
    """Value and standard error of a metric over slices; NaN where too few slices have enough rows."""
    parsed = MetricName.parse(name)
    if parsed.how == "rarest":
        return _of_rarest(parsed.metric, answers, slices)
    metric = measured[parsed.metric]
    having = [(metric.value(one.rows), one) for one in slices.enough(parsed.by, least)]
    values = [(value, metric.error(one.rows)) for value, one in having if not math.isnan(value)]
    if len(values) < 2:
        return NOWHERE, NOWHERE
    lowest, highest = min(values, key=_first), max(values, key=_first)
    if parsed.how == "worst":
        return highest if metric_direction(parsed.metric) == "minimize" else lowest
    return highest[0] - lowest[0], math.hypot(highest[1], lowest[1])


def _first(pair: tuple[float, float]) -> float:
    return pair[0]


def _of_rarest(metric: str, answers: Answers, slices: Slices) -> tuple[float, float]:
    if not isinstance(answers, Classes) or slices.rarest is None or slices.rarest not in answers.true:
        return NOWHERE, NOWHERE
    one, rows = of_class(answers, slices.rarest)[metric], np.arange(len(answers.true))
    return one.value(rows), one.error(rows)


def _slice_scores(one: Slice, measured: Mapping[str, Measured]) -> SliceScores:
    return _scores_over(one.by, one.value, len(one.rows), one.rows, measured)


def _class_scores(answers: Classes) -> list[SliceScores]:
    """Precision, recall and F1 of the classes that rows have or are taken for, the most frequent ones."""
    size, everything = len(answers.labels), np.arange(len(answers.true))
    true = np.bincount(answers.true, minlength=size)
    occurs = true + np.bincount(answers.predicted, minlength=size) > 0
    numbers = sorted(np.argsort(-true, kind="stable")[:MOST_CLASSES])
    return [
        _scores_over("label", answers.labels[i], int(true[i]), everything, of_class(answers, int(i)))
        for i in numbers
        if occurs[i]
    ]


def _scores_over(
    by: str, value: str, count: int, rows: Rows, measured: Mapping[str, Measured]
) -> SliceScores:
    errors = {name: metric.error(rows) for name, metric in measured.items()}
    return SliceScores(
        by,
        value,
        count,
        {name: metric.value(rows) for name, metric in measured.items()},
        {name: error for name, error in errors.items() if not math.isnan(error)},
    )
